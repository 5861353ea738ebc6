"""Trains a multi-layer perceptron on the digits data set and says how it does, epoch by epoch.

One program for the tuner's trials and for the final training: a trial holds a part of the training data
back and prints `validation-accuracy=...`; the final run trains on all of it and writes the model.
It is handed to `python3 -c`, so it reads nothing but its arguments and the data.
"""

import argparse

import joblib
import numpy as np
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", required=True, help=".npz file with `images` (n, 64) in 0..1 and `labels` (n)")
parser.add_argument("--learning-rate", type=float, required=True)
parser.add_argument("--hidden", type=int, required=True, help="units of the hidden layer")
parser.add_argument("--alpha", type=float, required=True, help="L2 penalty")
parser.add_argument("--activation", choices=["relu", "tanh", "logistic"], required=True)
parser.add_argument("--batch-size", type=int, required=True)
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--validate", type=float, default=0.0, help="share of the data held back, 0 for none")
parser.add_argument("--out", help="where the trained model goes")
args = parser.parse_args()

data = np.load(args.data)
images, labels = data["images"], data["labels"]
held_images = held_labels = None
if args.validate > 0:
    images, held_images, labels, held_labels = train_test_split(
        images, labels, test_size=args.validate, stratify=labels, random_state=args.seed
    )

model = MLPClassifier(
    hidden_layer_sizes=(args.hidden,),
    activation=args.activation,
    alpha=args.alpha,
    batch_size=min(args.batch_size, len(images)),
    learning_rate_init=args.learning_rate,
    random_state=args.seed,
)
for epoch in range(1, args.epochs + 1):
    model.partial_fit(images, labels, classes=np.arange(10))
    if held_images is not None:
        accuracy = model.score(held_images, held_labels)
        loss = log_loss(held_labels, model.predict_proba(held_images), labels=np.arange(10))
        print(f"epoch={epoch} validation-accuracy={accuracy:.5f} validation-loss={loss:.5f}", flush=True)
    else:
        print(f"epoch={epoch} training-loss={model.loss_:.5f}", flush=True)

if args.out:
    joblib.dump(model, args.out)
