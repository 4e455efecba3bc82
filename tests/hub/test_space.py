"""The Space runs offline from local models, and answers its client and a person in a browser."""

import re
import tomllib

import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from serving_parts import CHECKOUT, load_script, noise

from hf_ascdistill import __version__, convert_checkpoint

SPACE = CHECKOUT / "model_cards" / "space"
chromium = load_script(CHECKOUT / "benchmarks" / "chromium.py")
space = load_script(CHECKOUT / "benchmarks" / "space_screenshot.py")
app = load_script(SPACE / "app.py")
CLIP = "tram-lisbon-1035-42909-9-a.wav"


def pyproject() -> dict:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_what_the_space_is_built_with_fits_the_package():
    card, project = metadata_load(SPACE / "README.md"), pyproject()
    requirement = Requirement((SPACE / "requirements.txt").read_text(encoding="utf-8").strip())
    assert (requirement.name, requirement.extras) == ("hf_ascdistill", {"demo"})
    assert requirement.specifier.contains(__version__)
    assert (SPACE / card["app_file"]).is_file()
    [gradio] = [Requirement(text) for text in project["optional-dependencies"]["demo"] if text.startswith("gradio")]
    assert gradio.specifier.contains(card["sdk_version"])
    assert SpecifierSet(project["requires-python"]).contains(card["python_version"])


def test_a_client_gets_the_scores_of_the_chosen_model(model_folder, handler, tmp_path):
    soundfile.write(tmp_path / "clip.wav", noise(2.0), 32_000)
    (tmp_path / "text.wav").write_text("<b>no sound</b>")
    with space.running_space([model_folder]) as url:
        client = Client(url, verbose=False)
        scores, picture = client.predict(handle_file(tmp_path / "clip.wav"), model_folder.name, api_name="/classify")
        badge = client.predict(model_folder.name, api_name="/complexity")
        with pytest.raises(AppError, match="the beginning of the recording .*&lt;b&gt;no.*expected an audio file"):
            client.predict(handle_file(tmp_path / "text.wav"), model_folder.name, api_name="/classify")
        with pytest.raises(AppError, match="not in the list of choices"):
            client.predict(handle_file(tmp_path / "clip.wav"), "another/model", api_name="/classify")
    expected = handler({"inputs": (tmp_path / "clip.wav").read_bytes()})
    found = {entry["label"]: entry["confidence"] for entry in scores["confidences"]}
    for entry in expected[: len(found)]:
        assert found[entry["label"].replace("_", " ")] == pytest.approx(entry["score"], abs=1e-5)
    assert scores["label"] == expected[0]["label"].replace("_", " ")
    assert picture["value"]["plot"].startswith("data:image/webp;base64,")
    assert "parameters" in badge


def test_the_app_says_which_model_is_missing(capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(["--model", "no/such-model"])
    assert ended.value.code == 2
    assert "error: the model no/such-model is neither a folder" in capsys.readouterr().err


def test_a_page_without_a_recording_shows_nothing():
    scores, picture = app.classify({}, None, "student")
    assert scores is None and not picture["visible"] and picture["value"] is None


@pytest.mark.skipif(chromium.find_chromium() is None, reason="neither Chromium nor Chrome is installed")
def test_a_person_who_uploads_a_tram_reads_tram(shared, tmp_path):
    """A real clip, the authors' student, a real browser; every address but this machine's is unknown to it."""
    convert_checkpoint(shared / "checkpoints" / "cpm_student_dcase23.ckpt", tmp_path / "student")
    (tmp_path / "broken.wav").write_bytes(b"fLaC" + bytes(100))
    with space.running_space([tmp_path / "student"]) as url, chromium.browsing(chromium.find_chromium()) as page:
        scene = space.show_recording(page, url, shared / "data" / "tau22-sample" / "audio" / CLIP)
        shown, picture = page.evaluate("document.body.innerText"), page.screenshot()
        page.open(url)
        page.upload(space.FILE_INPUT, tmp_path / "broken.wav")
        error = page.wait_for("document.querySelector('.toast-body')?.innerText")
    assert scene == "tram"
    assert re.search(r"tram\s+(9\d|100)%", shown)
    for text in ("126,952 parameters", "fits DCASE 2023"):
        assert text in shown
    assert picture.startswith(b"\x89PNG")
    assert "the recording is damaged or of an unknown kind" in error
    outside = [address for address in page.requests if not address.startswith((url, "blob:", "data:"))]
    assert page.requests and not outside
