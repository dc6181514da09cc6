"""A comparison counts what it says it counts, and each limit is kept."""

from __future__ import annotations

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet18.exporters.compare import Comparison, compare

PERFECT = Comparison(
    n=100,
    agreement=1.0,
    max_difference=0.0,
    mean_difference=0.0,
    accuracy=None,
    model_accuracy=None,
    mass_error=0.0,
    model_classes=2,
)

RIGHT = {"accuracy": 0.9, "model_accuracy": 0.92}


class TestCompare:
    def test_counts_over_all_batches(self, tiny, tiny_images):
        exact = tiny.predict(tiny_images, verbose=0)
        numbers = exact.argmax(1)
        numbers[:10] = (numbers[:10] + 1) % 3  # the model is wrong about ten
        answers = exact.copy()
        answers[5:9] = np.roll(answers[5:9], 1, axis=1)  # the export differs on four of them
        source = iter([answers[:32], answers[32:]])
        batches = [(tiny_images[:32], numbers[:32]), (tiny_images[32:], numbers[32:])]
        found = compare(lambda pixels: next(source), tiny, batches)
        assert found.n == 40
        assert found.agreement == 36 / 40
        assert found.model_accuracy == 30 / 40
        assert found.accuracy == (30 + 4) / 40
        assert found.max_difference == pytest.approx(abs(answers - exact).max(), abs=1e-6)
        assert found.mean_difference == pytest.approx(abs(answers - exact).mean(), abs=1e-6)
        assert found.mass_error < 1e-6

    def test_a_model_of_one_answer_is_a_warning_and_not_a_proof(self, tiny, tiny_images):
        weights = [np.zeros_like(array) for array in tiny.get_weights()]
        constant = keras.models.clone_model(tiny)
        constant.set_weights([*weights[:-1], np.float32([5, 0, 0])])
        found = compare(constant.predict_on_batch, constant, [(tiny_images, None)])
        assert (found.agreement, found.model_classes) == (1.0, 1)
        assert "gives all 40 images the same class" in found.warning
        assert PERFECT.warning is None

    def test_takes_nan_for_the_largest_difference(self, tiny, tiny_images):
        answers = tiny.predict(tiny_images, verbose=0)
        answers[7, 1] = np.nan
        found = compare(lambda pixels: answers, tiny, [(tiny_images, None)])
        assert found.max_difference > 1e30 and found.mass_error > 1e30

    def test_compares_classes_with_the_mixed_model_and_probabilities_with_its_float32_twin(
        self, tiny, tiny_images, build_tiny, set_dtype_policy
    ):
        set_dtype_policy("mixed_bfloat16")
        mixed = build_tiny()
        mixed.set_weights(tiny.get_weights())
        exact = tiny.predict(tiny_images, verbose=0)
        rounded = mixed.predict(tiny_images, verbose=0).astype("float32")
        assert abs(exact - rounded).max() > 1e-4
        found = compare(lambda pixels: exact, mixed, [(tiny_images, None)])
        assert found.max_difference < 1e-6
        assert found.agreement == np.mean(exact.argmax(1) == rounded.argmax(1))

    def test_computes_in_whole_float32_and_puts_the_setting_back(self, tiny, tiny_images):
        enabled = tf.config.experimental.tensor_float_32_execution_enabled
        seen = []

        def exported(pixels):
            seen.append(enabled())
            return tiny.predict(pixels, verbose=0)

        before = enabled()
        compare(exported, tiny, [(tiny_images, None)])
        assert seen == [False] and enabled() is before is True


class TestEvidence:
    @pytest.mark.parametrize(
        "found",
        [
            {"agreement": 0.974, "n": 308},  # the interval reaches 98.7 %
            {"lost": 4},  # 1 in 16 by chance
            {"lost": 9, "won": 4},
            {"coverage": 0.95, "model_coverage": 0.96},
            {"coverage": 0.8, "model_coverage": None},
        ],
    )
    def test_within_chance_passes(self, found):
        assert dataclasses.replace(PERFECT, **found).fault(None) is None

    def test_less_agreement_than_asked_for_is_a_warning_and_few_images_too(self):
        low = dataclasses.replace(PERFECT, agreement=0.974, n=308)
        assert re.search("97.40% of 308 images, 95 % interval 95.0% to 98.7%, below", low.warning)
        for known in ({"accuracy": 1.0}, {"coverage": 1.0}):  # labels, or a run without them
            few = dataclasses.replace(PERFECT, n=10, **known)
            assert "10 images show little: up to 28% of answers may differ" in few.warning
        assert PERFECT.warning is None

    def test_coverage_is_of_each_ones_own_threshold(self, tiny, tiny_images):
        exact = tiny.predict(tiny_images, verbose=0)
        highest = np.sort(exact.max(1))
        thresholds = (float(highest[4]), float(highest[10]))
        found = compare(lambda x: exact, tiny, [(tiny_images, None)], thresholds)
        assert (found.coverage, found.model_coverage) == (36 / 40, 30 / 40)
        right = exact.argmax(1)
        wrong = np.where(np.arange(40) < 3, (right + 1) % 3, right)
        found = compare(lambda x: np.eye(3)[wrong], tiny, [(tiny_images, right)])
        assert (found.lost, found.won, found.coverage) == (3, 0, None)


class TestLimits:
    def test_let_pass_exactly_what_was_asked_for(self):
        assert PERFECT.fault(max_difference=0.0, min_agreement=1.0) is None
        assert dataclasses.replace(PERFECT, agreement=0.98).fault(1e-3, 0.98) is None

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ({"agreement": 0.94}, r"94\.00% on 100 images, below 98\.00% "),
            ({"agreement": 0.9, "n": 10}, r"90\.00% on 10 images, below 95\.00% "),
            ({"lost": 5} | RIGHT, "beyond chance: 90.00% and 92.00% on 100 images"),
            ({"coverage": 0.811, "model_coverage": 0.974}, "answers 81.10%.*the model 97.40%"),
            ({"max_difference": 0.0011}, r"by up to 0\.0011 on 100 images, more than 0\.001"),
            ({"max_difference": np.inf}, "by up to inf"),
            ({"mass_error": 0.02}, "do not sum to 1 on 100 images"),
        ],
    )
    def test_are_crossed_by_one_fault_and_say_which(self, fault, message):
        assert re.search(message, dataclasses.replace(PERFECT, **fault).fault(1e-3))

    @pytest.mark.parametrize("fault", [{"agreement": 0.94}, {"lost": 5} | RIGHT])
    def test_a_quantized_file_that_is_refused_names_what_stays_nearer(self, fault):
        found = dataclasses.replace(PERFECT, **fault)
        assert found.fault(None).endswith("; tflite-float16 or tflite stays nearer")
        assert "nearer" not in found.fault(1e-3)
