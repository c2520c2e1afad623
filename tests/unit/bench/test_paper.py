"""The paper's protocol: precision by a classifier of a folder of labelled pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.bench import paper, protocols
from sfumato.bench.tasks import Example
from sfumato.errors import ModelNotFound, OptionError
from tests.unit.bench.stand_ins import SIZE, made, picture


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of random weights over eight classes."""
    from transformers import ViTConfig, ViTForImageClassification

    names = ("tabby, tabby cat", "goldfish", "zebra", "piano", "lamp", "sofa", "tench", "lemon")
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    folder = tmp_path_factory.mktemp("classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    return folder


def labelled(folder: Path, *rows: str) -> Path:
    Image.fromarray(picture()).save(folder / "a.png")
    (folder / "labels.csv").write_text("\n".join(["file,label,box", *rows]) + "\n")
    return folder


def test_the_paper_s_protocol(tmp_path: Path, classifier: Path) -> None:
    data = labelled(tmp_path, 'a.png,tabby cat,"4,2,10,8"', "a.png,zebra,")
    plan, instruments, _ = protocols.prepare("paper", data, classifier=str(classifier))
    assert plan.predictions == 24
    boxed, free = (plan.make(name) for name in plan.names)
    assert boxed.mask.sum() == 80
    assert boxed.mask[2:10, 4:14].all()
    assert boxed.prompt == "tabby cat"
    ys, xs = np.nonzero(free.mask)
    assert free.mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
    assert 1 / 5 - 0.03 <= (np.ptp(ys) + 1) / SIZE[0] <= 0.5 + 0.03
    assert np.array_equal(free.mask, plan.make(plan.names[1]).mask)
    measured = instruments.measure(boxed, made(picture(3), n=3))
    reader = paper.Classifier(str(classifier))
    crop = picture(3)[2:10, 4:14]
    right = 0 in reader.first([crop])[0]
    assert [reading["right"] for reading in measured.readings] == [right] * 3
    assert measured.values["precision_first"] == measured.values["precision_all"] == float(right)
    assert any("Text match is left out" in note for note in instruments.notes)


def test_five_of_eight_classes_are_right(classifier: Path) -> None:
    """Over all classes as labels, a prediction is right exactly five times."""
    reader = paper.Classifier(str(classifier))
    found = reader.first([picture()])[0]
    assert len(set(found)) == 5
    assert reader.place_of(" Tabby Cat ") == reader.place_of("tabby") == 0


def test_one_folder_per_class(tmp_path: Path, classifier: Path) -> None:
    (tmp_path / "tabby_cat").mkdir()
    Image.fromarray(picture()).save(tmp_path / "tabby_cat" / "1.jpg")
    plan, *_ = protocols.prepare("paper", tmp_path, classifier=str(classifier), predictions=2)
    example: Example = plan.make(plan.names[0])
    assert (example.prompt, plan.predictions) == ("tabby cat", 2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png,tabbi,", r"no class 'tabbi'.*tabby"),
        ("b.png,zebra,", r"b\.png is not there"),
    ],
)
def test_bad_labels_are_found_before_anything_runs(tmp_path: Path, classifier: Path, row: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        protocols.prepare("paper", labelled(tmp_path, row), classifier=str(classifier))


@pytest.mark.parametrize("box", ["1,2,3", "30,2,10,8"])
def test_bad_boxes(tmp_path: Path, classifier: Path, box: str) -> None:
    plan, *_ = protocols.prepare("paper", labelled(tmp_path, f'a.png,zebra,"{box}"'), classifier=str(classifier))
    with pytest.raises(OptionError, match="box"):
        plan.make(plan.names[0])


def test_a_classifier_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="sfumato models pull google/none"):
        protocols.prepare("paper", labelled(tmp_path, "a.png,zebra,"), classifier="google/none")
