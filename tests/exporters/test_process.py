"""A converter's process that fails, is killed or knows an operator not gives the reason."""

from __future__ import annotations

import pytest

from keras_resnet18.errors import ExportError
from keras_resnet18.exporters.graph import run_converter

# As TensorFlow logs them after the error, when the process ends
LOG = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795687563.698033   20073 cudart_stub.cc:31] Could not find cuda drivers on your "
    "machine, GPU will not be used.\n"
)
# From TensorFlow 2.21 and tf2onnx 1.17, given tf.math.igamma and tf.math.special.bessel_j0
CUSTOM = (
    "tensorflow.lite.python.convert_phase.ConverterError: <unknown>:0: error: 'tf.Igamma' op is "
    "neither a custom op nor a flex op\n<unknown>:0: error: failed while converting: 'main': \n"
    "Some ops in the model are custom ops, See instructions\nCustom ops: BesselJ0, Igamma\n"
    "Details:\n\ttf.BesselJ0(tensor<1x8x8x3xf32>) -> (tensor<1x8x8x3xf32>)\n"
)
SELECT = "Some ops are not supported by the native TFLite runtime\nTF Select ops: Erfinv, Igamma\n"
ONNX = "10:06:14,805 - ERROR - Unsupported ops: Counter({'BesselJ0': 1, 'Igamma': 2})\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n'
CHECK = "F0000 00:00:1795687563.698033   20073 flatbuffer.cc:12] Check failed: size < limit\n"


@pytest.mark.parametrize(
    ("stderr", "end", "message"),
    [
        (CUSTOM + LOG, "sys.exit(1)", "cannot convert BesselJ0, Igamma: build the model without"),
        (SELECT + LOG, "sys.exit(1)", "cannot convert Erfinv, Igamma: build the model without"),
        (ONNX, "output.touch()", "cannot convert BesselJ0, Igamma: build the model without"),
        (f"{TRACEBACK}MemoryError\n{LOG}", "sys.exit(1)", "failed: MemoryError (status 1)"),
        (
            f"{TRACEBACK}OSError: [Errno 28] No space left on device\n{LOG}",
            "sys.exit(1)",
            "failed: OSError: [Errno 28] No space left on device (status 1)",
        ),
        (CHECK + LOG, "os.abort()", "failed: it was ended by SIGABRT: Check failed: size < limit"),
        (
            LOG,
            "os.kill(os.getpid(), 9)",
            "failed: it was ended by SIGKILL, as where memory runs out: no message",
        ),
        (LOG, "os.kill(os.getpid(), 15)", "failed: it was ended by SIGTERM: no message"),
        ("first line\nthe reason\n" + LOG, "sys.exit(3)", "failed: the reason (status 3)"),
        (LOG, "", "failed: no message (status 0)"),
    ],
)
def test_a_converter_that_fails_says_why_in_one_line(tmp_path, stderr, end, message):
    script, output = tmp_path / "convert.py", tmp_path / "output"
    script.write_text(
        f"import os, pathlib, sys\noutput = pathlib.Path({str(output)!r})\n"
        f"sys.stderr.write({stderr!r})\nsys.stderr.flush()\n{end}\n"
    )
    with pytest.raises(ExportError) as error:
        run_converter("it", [str(script)], output)
    assert str(error.value) == f"it {message}; nothing was written"
