"""Federated training of the project's classifiers: Flower carries the messages, SecAgg+ hides every single update.

A client trains on images of its own and sends what that changed in the weights; the server adds the average to the
model. With SecAgg+ (Bell et al. 2020, IACR ePrint 2020/704; after Bonawitz et al. 2017, 2017/281) the server learns the sum alone.
Everything runs in processes of its own, which talk over loopback TCP. Nothing here imports Flower before it is used.
"""
