"""What the yardsticks do for an answer: one of five arms at random, as JSON of the shape of a draw."""

import json
import random

ARM_IDS = [f"arm-{number}" for number in range(1, 6)]
CUMULATIVE = [0.2, 0.4, 0.6, 0.8, 1.0]
DECISION_ID = "x" * 92
ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def decide() -> dict[str, object]:
    arm_id = random.choices(ARM_IDS, cum_weights=CUMULATIVE)[0]
    return {"arm_id": arm_id, "propensity": 0.2, "decision_id": DECISION_ID, "payload": None}


def draw() -> bytes:
    return ENCODE(decide()).encode()
