"""Federated training of the project's classifiers: Flower carries the messages, SecAgg+ hides every single update.

A client trains on images of its own and sends what that changed in the weights; the server adds the average to the
model. With SecAgg+ (Bell et al. 2020, IACR ePrint 2020/704; after Bonawitz et al. 2017, ePrint 2017/281) the server
learns the sum alone. Server and clients are processes of their own, which talk over loopback TCP.

`secure`, `client`, `server`, `grid`, `node` and `flower` belong to the processes of a run and need Flower; the other
modules do not, and the study `federated` says so where it is missing.
"""
