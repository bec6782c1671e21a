"""DICOM and 16-bit greyscale are seen through a window: their own, the one that was asked for, or all there is."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

import densekit
from densekit.config import DataConfig
from densekit.data import load
from densekit.data.decoding.decode import ERROR_CODES, check_header, decode
from densekit.errors import BadData, BadImage
from tests.data.pictures import code_of, encoded, tiff
from tests.narrow import expect_type

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)  # 12 bits of 16, as X-ray detectors give
VALUES = RAMP.astype(int)


def example_file(name: str, *, download: bool) -> str:
    """The path of a file that pydicom has."""
    return expect_type(get_testdata_file(name, download=download), str)


def dicom(values: np.ndarray, photometric: str = "MONOCHROME2", **elements: Any) -> bytes:
    """A file of `values`, with such elements beside what every image has."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = 8 * values.itemsize
    dataset.BitsStored = elements.pop("BitsStored", 8 * values.itemsize)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def grey(content: bytes, window: tuple[float, float] | None = None) -> np.ndarray:
    return np.asarray(decode(content, channels=1, window=window).image).astype(int)


def test_a_file_without_a_window_is_shown_from_its_lowest_to_its_highest_value() -> None:
    shown = grey(dicom(RAMP, BitsStored=12))
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.abs(shown - VALUES * 255 / 4080).max() <= 0.5
    assert len(np.unique(grey(dicom(np.full((4, 4), 7, np.uint16))))) == 1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_its_own_window_is_pydicoms(function: str) -> None:
    """Which scales it to the range of the stored bits."""
    elements: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": function, "BitsStored": 12}
    content = dicom(RAMP, **elements)
    dataset = pydicom.dcmread(io.BytesIO(content))
    theirs = apply_voi_lut(dataset.pixel_array, dataset) / 4095 * 255
    assert np.abs(grey(content) - theirs).max() <= 0.51
    assert len(np.unique(grey(content))) > 40


def table(descriptor: list[int], entries: Any, vr: str) -> Any:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", vr, entries)
    return [item]


def test_a_table_of_8_bits_is_read_at_the_place_of_each_value() -> None:
    """Whose places apply_voi of pydicom counts modulo 256."""
    values = np.array([[0, 255, 256, 512], [1000, 2000, 3000, 4095]], np.uint16)
    wanted = [[0, 15, 16, 32], [62, 125, 187, 255]]
    entries = np.arange(4096) // 16
    for given, vr in (
        (entries.tolist(), "US"),
        (entries.astype("<u2").tobytes(), "OW"),
        (entries.astype("u1").tobytes(), "OW"),
    ):
        content = dicom(values, BitsStored=12, VOILUTSequence=table([4096, 0, 8], given, vr))
        assert grey(content).tolist() == wanted


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deeper_tables_are_pydicoms(bits: int) -> None:
    entries = (np.arange(3000) * (2**bits - 1) // 2999).astype("<u2").tobytes()
    content = dicom(RAMP, BitsStored=12, VOILUTSequence=table([3000, 500, bits], entries, "OW"))
    dataset = pydicom.dcmread(io.BytesIO(content))
    theirs = apply_voi_lut(dataset.pixel_array, dataset) / (2**bits - 1) * 255
    assert np.abs(grey(content) - theirs).max() <= 0.5
    assert len(np.unique(grey(content))) > 100


def test_a_table_may_begin_below_zero_and_have_65536_entries() -> None:
    values = np.array([[-32768, -1, 0, 32767]], np.int16)
    entries = np.arange(65536).astype("<u2").tobytes()
    # As signed numbers, and as some write them.
    for first in (-32768, 32768):
        content = dicom(values, VOILUTSequence=table([0, first, 16], entries, "OW"))
        assert grey(content).tolist() == [[0, 127, 128, 255]]


def test_a_table_of_other_depths_or_too_short_is_a_bad_image() -> None:
    assert code_of(dicom(RAMP, VOILUTSequence=table([16, 0, 32], [0] * 16, "US"))) == "unsupported_mode"
    assert code_of(dicom(RAMP, VOILUTSequence=table([4096, 0, 12], bytes(100), "OW"))) == "corrupt"
    assert code_of(dicom(RAMP, VOILUTSequence=table([4096, 0, 12], [0] * 16, "US"))) == "corrupt"


def test_the_first_of_several_windows_is_taken() -> None:
    two = dicom(RAMP, WindowCenter=[2000, 50], WindowWidth=[1000, 10])
    assert np.array_equal(grey(two), grey(dicom(RAMP, WindowCenter=2000, WindowWidth=1000)))


def test_rescaling_comes_before_the_window() -> None:
    """Of CT: stored values are Hounsfield units, moved and scaled."""
    elements: dict[str, Any] = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    shown = grey(dicom(RAMP, BitsStored=12, **elements))
    units = VALUES * 2 - 1024
    assert shown[units < -160].max() == 0
    assert shown[units >= 240].min() == 255
    assert 120 < shown[np.abs(units - 40) < 20].mean() < 135


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": "nan", "WindowWidth": "400"},
        {"WindowCenter": "40", "WindowWidth": "inf"},
        {"RescaleSlope": "nan", "RescaleIntercept": "0"},
        {"RescaleSlope": "inf", "RescaleIntercept": "0"},
    ],
)
@pytest.mark.filterwarnings("ignore")  # of pydicom, about such elements
def test_values_or_a_window_that_are_not_finite_are_refused(elements: dict[str, str]) -> None:
    assert code_of(dicom(RAMP, **elements)) == "unsupported_values"


def item(**elements: Any) -> list[Dataset]:
    """A sequence of one."""
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return [dataset]


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_enhanced_files_have_rescaling_and_window_in_their_functional_groups(groups: str) -> None:
    rescaling: dict[str, Any] = {"RescaleSlope": -1, "RescaleIntercept": 4080, "RescaleType": "US"}
    view: dict[str, Any] = {"WindowCenter": 1000, "WindowWidth": 500}
    of_frame: Any = item(
        PixelValueTransformationSequence=item(**rescaling),
        FrameVOILUTSequence=item(**view),
    )
    shown = grey(dicom(RAMP, BitsStored=12, **{groups: of_frame}))
    assert np.array_equal(shown, grey(dicom(RAMP, BitsStored=12, **rescaling, **view)))
    assert shown[0, 0] == 255


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": 1, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": 0},
        {"WindowCenter": 2000, "WindowWidth": None},
        {"WindowCenter": 2000, "WindowWidth": -100},
        {"VOILUTSequence": []},
        {"VOILUTSequence": item(LUTExplanation="NORMAL")},
        {"ModalityLUTSequence": item(LUTExplanation="NORMAL")},
        {"PixelPaddingValue": None},
        {"SharedFunctionalGroupsSequence": item(FrameVOILUTSequence=[])},
    ],
)
def test_an_empty_or_impossible_element_is_an_absent_one(elements: dict[str, Any]) -> None:
    assert np.array_equal(grey(dicom(RAMP, BitsStored=12, **elements)), grey(dicom(RAMP, BitsStored=12)))


def test_a_window_counts_where_the_table_beside_it_is_empty() -> None:
    view: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 1000}
    shown = grey(dicom(RAMP, BitsStored=12, VOILUTSequence=item(LUTExplanation="NORMAL"), **view))
    assert np.array_equal(shown, grey(dicom(RAMP, BitsStored=12, **view)))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_table_may_rescale_with_any_depth(bits: int) -> None:
    """Of which pydicom reads 8 and 16 bits."""
    entries = (np.arange(4096)[::-1] * (2**bits - 1) // 4095).astype("<u2").tobytes()
    content = dicom(RAMP, BitsStored=12, ModalityLUTSequence=table([4096, 0, bits], entries, "OW"))
    assert np.abs(grey(content) - (255 - VALUES * 255 / 4080)).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [0, 5000])
def test_padding_is_black_and_takes_no_part_in_the_range(photometric: str, value: int) -> None:
    padded, rim = RAMP + 100, np.zeros(RAMP.shape, dtype=bool)
    rim[:, :3] = True
    whole = grey(dicom(padded[:, 3:].copy(), photometric))
    padded[rim] = value
    shown = grey(dicom(padded, photometric, PixelPaddingValue=value))
    assert not shown[rim].any()
    assert np.array_equal(shown[:, 3:], whole)


def test_padding_may_be_a_range_and_all_of_an_image() -> None:
    values = np.array([[0, 1, 2, 1000, 2000]], np.uint16)
    assert grey(dicom(values, PixelPaddingValue=2, PixelPaddingRangeLimit=0)).tolist() == [[0, 0, 0, 0, 255]]
    assert not grey(dicom(np.full((4, 4), 7, np.uint16), PixelPaddingValue=7)).any()


def test_signed_values_are_read() -> None:
    assert grey(dicom(np.array([[-100, 0], [50, 100]], np.int16))).tolist() == [[0, 128], [191, 255]]


def test_low_is_white_where_the_file_says_so() -> None:
    """MONOCHROME1, of most digital X-ray machines: also under a window that was asked for."""
    for window in (None, (2000.0, 1000.0)):
        inverted = grey(dicom(RAMP, "MONOCHROME1"), window)
        assert np.abs(inverted - (255 - grey(dicom(RAMP), window))).max() <= 1
        assert inverted[0, 0] == 255


def test_a_window_that_was_asked_for_goes_before_the_files_own() -> None:
    shown = grey(dicom(RAMP, WindowCenter=100, WindowWidth=10), (2048, 1024))
    assert shown[RAMP <= 2048 - 512].max() == 0
    assert shown[RAMP >= 2048 + 512].min() == 255
    assert shown[RAMP == 2048] == 128


def test_the_first_of_several_frames_is_taken_with_a_notice() -> None:
    frames = np.concatenate([RAMP, RAMP[::-1]])
    decoded = decode(dicom(frames, NumberOfFrames=2, Rows=16), channels=1)
    assert np.array_equal(np.asarray(decoded.image), grey(dicom(RAMP)))
    assert decoded.notices == ("2 frames: the first is used",)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm"])
def test_scanners_files_are_read(name: str) -> None:
    path = Path(example_file(name, download=False))
    shown = grey(path.read_bytes())
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(dataset.pixel_array, dataset)
    assert shown.shape == dataset.pixel_array.shape
    assert shown.std() > 10
    assert np.corrcoef(shown.ravel(), values.ravel())[0, 1] > 0.7


def test_colour_is_read_as_it_is() -> None:
    path = example_file("examples_rgb_color.dcm", download=False)
    assert np.array_equal(np.asarray(decode(path).image), pydicom.dcmread(path).pixel_array)


def test_what_is_no_good_has_its_code() -> None:
    whole = dicom(RAMP)
    assert code_of(whole[:-100]) == "truncated"
    assert code_of(example_file("rtplan.dcm", download=False)) == "not_an_image"
    assert code_of(whole, max_pixels=255) == "too_many_pixels"
    assert code_of(whole[:132] + b"\xff" * 200) in {"corrupt", "truncated", "not_an_image"}
    assert code_of(example_file("examples_palette.dcm", download=False)) == "unsupported_mode"
    with pytest.raises(BadImage, match=r"compressed as JPEG-LS.*pip install"):
        decode(example_file("JPEGLSNearLossless_16.dcm", download=False))
    check_header(whole)


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_a_bad_image_and_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    content = np.frombuffer(dicom(RAMP, WindowCenter=2000, WindowWidth=1000), np.uint8).copy()
    content[random.integers(132, len(content) - RAMP.nbytes, 12)] = random.integers(0, 256, 12)
    try:
        ended = decode(content.tobytes(), channels=1).image.mode
    except BadImage as bad:
        ended = bad.code
    assert ended in {"L", *ERROR_CODES}


@pytest.mark.slow
def test_without_pydicom_one_line_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(dicom(RAMP))
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from densekit.cli.main import main\n"
        "sys.argv = ['densekit', 'predict', 'fashion-mnist', 'x.dcm']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "x.dcm is DICOM, which needs pydicom, an extra: pip install 'densekit[dicom]'" in done.stderr


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_is_shown_through_the_window(kind: str) -> None:
    content = encoded(Image.fromarray(RAMP), kind)
    assert grey(content).max() == 16  # all of 16 bits: nearly black
    assert np.abs(grey(content, (2048, 4096)) - VALUES * 255 / 4096).max() <= 0.5
    assert grey(content, (2048, 1024))[RAMP >= 2560].min() == 255


def test_12_bits_in_16_are_told_to_be_nearly_black() -> None:
    content = encoded(Image.fromarray(RAMP), "PNG")
    (notice,) = decode(content, channels=1).notices
    assert "no value above 4080" in notice
    assert not decode(content, channels=1, window=(2048, 4096)).notices
    for values in (RAMP * 16, RAMP * 0):
        assert not decode(encoded(Image.fromarray(values), "PNG"), channels=1).notices


def test_a_window_gives_floats_a_black_and_a_white() -> None:
    values = np.array([-1000, 0, 400, 3000], np.float32)
    content = tiff(values.tobytes(), 4, 1, bits=(32,), sample_format=3)
    assert code_of(content, channels=1) == "unsupported_values"
    assert grey(content, (40, 400)).tolist() == [[0, 102, 255, 255]]
    values[0] = np.nan
    assert code_of(tiff(values.tobytes(), 4, 1, bits=(32,), sample_format=3), window=(40, 400)) == "unsupported_values"


def test_8_bit_images_are_what_they_are_under_any_window() -> None:
    content = encoded(Image.linear_gradient("L"), "PNG")
    assert np.array_equal(grey(content), grey(content, (2048, 100)))


def test_training_and_prediction_look_through_the_same_window(tmp_path: Path) -> None:
    """Bright is a class; all of it lies in the lowest tenth of 16 bits."""
    random = np.random.default_rng(0)
    rows = ["path,label"]
    for i in range(40):
        values = random.integers(1000, 1400, (16, 16), dtype=np.uint16) + np.uint16(300 * (i % 2))
        name = f"{i}.dcm" if i % 4 < 2 else f"{i}.png"
        content = dicom(values) if name.endswith("dcm") else encoded(Image.fromarray(values), "PNG")
        (tmp_path / name).write_bytes(content)
        rows.append(f"{name},{'bright' if i % 2 else 'dark'}")
    (tmp_path / "x.csv").write_text("\n".join(rows))
    settings = {"data.window": [1300, 800], "data.image_size": 16, "data.channels": 1, "batch_size": 8}
    run = densekit.train(
        f"csv:{tmp_path}/x.csv", model="densenet_bc_10_8", epochs=20, out=tmp_path / "run", settings=settings
    )
    classifier = densekit.load(run.folder)
    assert classifier.card.preprocessing.window == (1300, 800)
    assert run.result.top1 is not None
    for i in (0, 1, 2, 3):
        name = f"{i}.dcm" if i % 4 < 2 else f"{i}.png"
        assert classifier.predict(tmp_path / name).top(1)[0]["class"] == ("bright" if i % 2 else "dark")


def test_statistics_are_of_what_is_seen(tmp_path: Path) -> None:
    from densekit.data.prepare import preprocessing_for

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.dcm").write_bytes(dicom(np.full((8, 8), 1500, np.uint16)))
    config = DataConfig(source=str(tmp_path), window=(1500, 800), channels=1, image_size=8)
    data = load(config, tmp_path)
    assert preprocessing_for(data, config).mean == pytest.approx((128 / 255,), abs=1e-3)
    assert torch.equal(data.splits["train"].labels, torch.tensor([0, 1]))


def test_a_folder_with_bad_dicom_is_refused_as_any_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.dcm").write_bytes(b"no")
    with pytest.raises(BadData, match=r"x\.dcm does not begin like"):
        load(DataConfig(source=str(tmp_path)), tmp_path)
