"""Networks by name: functions from the image shape, the number of classes and the pixel statistics to a SplitNetwork.

To add one: write its file and add a line here; that `server(client(x))` equals the unsplit network is tested.
"""

from collections.abc import Callable

from dpsnn.networks.faces import faces_cnn, faces_judge, perceptron, softmax_regression
from dpsnn.networks.keydana import keydana
from dpsnn.networks.lenet5 import lenet5
from dpsnn.networks.mobile import mobile
from dpsnn.networks.split import SplitNetwork
from dpsnn.networks.titcombe import titcombe, titcombe_softmax
from dpsnn.networks.validator import validator

NETWORKS: dict[str, Callable[..., SplitNetwork]] = {
    "faces_cnn": faces_cnn,
    "faces_judge": faces_judge,
    "keydana": keydana,
    "lenet5": lenet5,
    "mobile": mobile,
    "perceptron": perceptron,
    "softmax_regression": softmax_regression,
    "titcombe": titcombe,
    "titcombe_softmax": titcombe_softmax,
    "validator": validator,
}

__all__ = [
    "NETWORKS",
    "SplitNetwork",
    "faces_cnn",
    "faces_judge",
    "keydana",
    "lenet5",
    "mobile",
    "perceptron",
    "softmax_regression",
    "titcombe",
    "titcombe_softmax",
    "validator",
]
