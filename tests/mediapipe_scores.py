"""What MediaPipe's ImageClassifier makes of .tflite files, for test_metadata. Not in the project's own environment:
MediaPipe wants a later absl-py than TensorFlow's model optimization.

    uv run --no-project --isolated --with mediapipe python tests/mediapipe_scores.py MODEL.tflite IMAGES.npy

Prints JSON: for no threshold and for one of 0.5, the scores by class name of each of the images [images, height, width,
3], uint8.
"""

import json
import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def scores(model: str, images: np.ndarray, threshold: float | None) -> list[dict[str, float]]:
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model), score_threshold=threshold)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        results = [classifier.classify(mediapipe.Image(mediapipe.ImageFormat.SRGB, image)) for image in images]
    return [{each.category_name: each.score for each in result.classifications[0].categories} for result in results]


if __name__ == "__main__":
    model, images = sys.argv[1:]
    print(json.dumps([scores(model, np.load(images), threshold) for threshold in (None, 0.5)]))
