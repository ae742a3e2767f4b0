"""Networks by name: functions from the image shape, the number of classes and the pixel statistics to a SplitNetwork.

They are found by walking this folder for functions marked `@network`; that `server(client(x))` equals the unsplit
network is tested.
"""

from dpsnn.networks.faces import faces_cnn, faces_judge, perceptron, softmax_regression
from dpsnn.networks.keydana import keydana
from dpsnn.networks.lenet5 import lenet5
from dpsnn.networks.mobile import mobile
from dpsnn.networks.split import SplitNetwork
from dpsnn.networks.titcombe import titcombe, titcombe_softmax
from dpsnn.networks.validator import validator
from dpsnn.parts import Registry

NETWORKS = Registry("network")

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
