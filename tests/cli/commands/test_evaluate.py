"""``clipsearch evaluate``, run as a program."""

import json
import re
import shutil
from pathlib import Path

import pytest
from archives import write_benchmark, write_tar
from conftest import SAMPLES, TINY_CONFIG, Run, make_picture, places_beside, run_here
from fakes import DecodeHere, FakeEncoder

from clipsearch.domain import taxonomy
from clipsearch.indexing import embed
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.storage import collection as assurance
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection

DOMAIN = """
name = "blocks"
templates = ["a photo of a {}."]
in_domain = ["something square", "many colors"]
out_of_domain = ["quarterly revenue"]
classes = [
    {name = "red block"}, {name = "blue block", synonyms = ["azure"]}, {name = "green block"},
    {name = "grey block"}, {name = "wall"},
]
pass_marks = {images = 3, top1 = 0.0}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder of class-named folders, indexed for a small domain. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "set"
    for n, name in enumerate(["red_block", "blue-block", "Azure", "wall"]):
        for m in range(2):
            (root / name).mkdir(parents=True, exist_ok=True)
            make_picture(root / name / f"{m}.png", seed=10 * n + m)
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
        with Store.open_for_writing(root / ".clipsearch") as store:
            assurance.pin(store, taxonomy.parse(DOMAIN, "blocks.toml"))
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


def kept(root: Path) -> Collection:
    """What an index knows about itself, read whole."""
    with Store.open(root / ".clipsearch") as store:
        found = Collection(store)
        _ = found.evaluation
    return found


def pin(root: Path, old: str, new: str) -> None:
    assert DOMAIN.count(old) == 1
    with Store.open_for_writing(root / ".clipsearch") as store:
        assurance.pin(store, taxonomy.parse(DOMAIN.replace(old, new), "blocks.toml"))


def test_a_report_for_people(run: Run, collection: Path, tmp_path: Path) -> None:
    done = run("evaluate", "set", cwd=tmp_path)
    assert (done.code, done.err) == (0, ""), done.err
    head, *_, last = done.lines
    assert head.startswith(f"set: 8 images, for the index of {collection} (")
    assert "domain blocks" in head
    assert last == "tested: all pass marks of the domain blocks are met"
    for said in ("top-1", "top-5", "mean per-class recall", "mean average precision"):
        assert any(line.startswith(said) and " to " in line for line in done.lines)
    assert any(line.startswith("in-domain queries refused") for line in done.lines)
    assert any(line.startswith("images") and "at least 3" in line for line in done.lines)
    assert any("2 of 5 classes have no image" in line for line in done.lines)
    assert kept(collection).tested == "tested"


def test_json_is_one_object_and_what_the_index_keeps(run: Run, collection: Path) -> None:
    done = run("evaluate", ".", "--json", cwd=collection)
    assert (done.code, done.err) == (0, ""), done.err
    (line,) = done.lines
    record = json.loads(line)
    assert record.keys() >= {
        *("tested", "source", "made_at", "model", "domain", "fingerprints", "pass_marks"),
        *("shortfalls", "measures", "report", "gate", "precision", "logit_scale", "wrong"),
        *("skipped", "reused", "published"),
    }
    assert record["tested"] == "tested"
    assert (record["domain"], record["reused"], record["skipped"]) == ("blocks", 8, [])
    report = record["report"]
    assert (report["kind"], report["images"], report["classes"]) == ("classification", 8, 5)
    for name in ("top1", "top5", "mean_per_class_recall", "mean_average_precision"):
        estimate = report[name]
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert record["measures"][name] == estimate["value"]
    assert report["top5"]["value"] == 1
    images = {result["name"]: result["images"] for result in report["per_class"]}
    assert images == {"red block": 2, "blue block": 4, "green block": 0, "grey block": 0, "wall": 2}
    right = round(8 * report["top1"]["value"])
    assert len(record["wrong"]) == 8 - right == sum(c["count"] for c in report["confusions"])
    for wrong in record["wrong"]:
        assert (collection / wrong["path"]).is_file()
        assert wrong["actual"] != wrong["given"]
    assert record["gate"]["in_domain"] == 2
    evaluation = kept(collection).evaluation
    assert evaluation is not None
    assert evaluation.test_set == record["fingerprints"]["test_set"]
    assert dict(evaluation.measures) == record["measures"]


def test_marks_that_are_not_met_exit_with_1(run: Run, collection: Path) -> None:
    pin(collection, "top1 = 0.0", "top1 = 1.0")
    done = run("evaluate", ".", cwd=collection)
    assert (done.code, done.err) == (1, "")
    said, missed = done.lines[-2:]
    assert said == "failed: 1 of 2 pass marks of the domain blocks are not met"
    assert re.fullmatch(r"  top1 0\.\d+ is below the mark 1", missed)
    assert kept(collection).tested == "failed"
    record = json.loads(run("evaluate", ".", "--json", cwd=collection).out)
    assert [(one["measure"], one["mark"]) for one in record["shortfalls"]] == [("top1", 1.0)]


def test_too_few_pictures_exit_with_1_and_change_nothing(
    run: Run, collection: Path, tmp_path: Path
) -> None:
    assert run("evaluate", ".", cwd=collection).code == 0
    before = kept(collection).evaluation
    shutil.copytree(collection / "wall", tmp_path / "few/red block")
    done = run("evaluate", "few", "--under", "set", "--html", "few.html", cwd=tmp_path)
    assert (done.code, done.err) == (1, "clipsearch: wrote few.html\n")
    assert done.lines[-1] == (
        "not kept: 2 images are too few for a verdict; the domain blocks requires 3"
    )
    assert "too few images to decide anything" in (tmp_path / "few.html").read_text()
    record = json.loads(run("evaluate", "few", "--under", "set", "--json", cwd=tmp_path).out)
    assert record["tested"] == "untested"
    assert kept(collection).evaluation == before


@pytest.mark.process
def test_a_page_is_written_beside_the_report(run: Run, collection: Path, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>.png"
    make_picture(collection / "wall" / hostile, seed=99)
    done = run("evaluate", "set", "--html", "page.html", cwd=tmp_path)
    assert (done.code, done.err) == (0, "clipsearch: wrote page.html\n")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    wrong = json.loads(run("evaluate", "set", "--json", cwd=tmp_path).out)["wrong"]
    assert text.count("<figure>") == text.count("data:image/jpeg;base64,") == len(wrong) > 0
    assert "onerror=alert(1)>" not in text
    assert text.rstrip().endswith("</html>")


def test_a_page_takes_the_place_of_no_file_of_the_users(run: Run, collection: Path) -> None:
    (collection / "link.html").symlink_to("wall/0.png")
    for name in ("link.html", "wall/1.png", ".clipsearch/catalog.sqlite3"):
        before = (collection / name).read_bytes()
        done = run("evaluate", ".", "--html", name, "--force", cwd=collection)
        assert (done.code, done.out) == (2, b"")
        assert (collection / name).read_bytes() == before
    (collection / "notes.html").write_text("mine")
    done = run("evaluate", ".", "--html", "notes.html", cwd=collection)
    assert done.code == 2
    assert "add --force" in done.err
    assert kept(collection).evaluation is None  # before any work is done


@pytest.mark.process
def test_another_test_set_for_the_collection_around_the_current_folder(
    run: Run, collection: Path, tmp_path: Path
) -> None:
    (tmp_path / "test").mkdir()
    for n in range(3):
        make_picture(tmp_path / "test" / f"{n}.png", seed=n)
    table = "path,label\n0.png,wall\n1.png,azure\n2.png,red block\n"
    (tmp_path / "test/labels.csv").write_text(table)
    done = run("evaluate", "../test/labels.csv", "--json", cwd=collection)
    assert done.code == 0
    record = json.loads(done.out)
    assert record["report"]["images"] == 3
    assert record["reused"] == 2  # the same images, under other names
    for options in (["--under", collection], ["--index", collection]):
        other = run("evaluate", "test/labels.csv", "--json", *options, cwd=tmp_path)
        assert json.loads(other.out)["fingerprints"] == record["fingerprints"]


def test_several_labels(run: Run, collection: Path) -> None:
    pin(collection, "top1 = 0.0", "absent_answered = 1, list_f1 = 1")
    rows = ["path,label,area", "wall/0.png,wall,1", "wall/0.png,azure,2", "Azure/1.png,azure,3"]
    (collection / "several.csv").write_text("\n".join([*rows, "Azure/0.png,red_block,0"]) + "\n")
    done = run("evaluate", "several.csv", "--html", "page.html", cwd=collection)
    assert done.code == 1
    assert any(line.startswith("list_f1") or "list_f1" in line for line in done.lines[-1:])
    assert 'Answers to "a CLASS" if only the labeled images were searched' in done.lines
    for said in ("present classes found", "absent classes answered", "F1 of the list"):
        assert any(line.startswith(said) and " to " in line for line in done.lines)
    assert not any(line.startswith("top-1") for line in done.lines)
    page = (collection / "page.html").read_text(encoding="utf-8")
    assert "absent classes answered" in page
    assert "misclassified" not in page
    record = json.loads(run("evaluate", "several.csv", "--json", cwd=collection).out)
    assert record["report"]["kind"] == "multi-label classification"
    assert record["report"]["labels"] == 4
    answers = record["report"]["answers"]
    assert [one["images"] for one in answers["per_class"]] == [1, 2, 0, 0, 1]
    assert answers["absent_answered"]["n"] == 2
    assert record["measures"]["list_f1"] == answers["list_f1"]["value"]
    assert record["wrong"] == []


def test_captions(run: Run, collection: Path) -> None:
    rows = ["path\tcaption", "wall/0.png\ta wall", "wall/1.png\ta red thing", "wall/0.png\tbricks"]
    (collection / "captions.tsv").write_text("\n".join(rows) + "\n")
    done = run("evaluate", "captions.tsv", "--json", cwd=collection)
    assert done.code == 1  # the domain's marks are about labels
    record = json.loads(done.out)
    assert record["report"]["kind"] == "retrieval"
    assert record["measures"].keys() == {
        *(f"{what}_recall_at_{k}" for what in ("image", "text") for k in (1, 5, 10)),
        *("images", "refused_in_domain"),
    }
    done = run("evaluate", "captions.tsv", cwd=collection)
    assert "text recall@10" in done.out.decode()


def test_pictures_that_cannot_be_decoded_are_named(run: Run, collection: Path) -> None:
    (collection / "wall/broken.png").write_bytes(b"no picture")
    done = run("evaluate", ".", "--json", cwd=collection)
    assert done.code == 0
    assert done.err.startswith("clipsearch: skipping wall/broken.png: not an image")
    (skipped,) = json.loads(done.out)["skipped"]
    assert skipped["path"].endswith("wall/broken.png")


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        ({"x.csv": "path,label\nwall/0.png,wal\n"}, ["x.csv"], "line 2: the label 'wal'"),
        ({"x.csv": "path,label\nwall/9.png,wall\n"}, ["x.csv"], "line 2: there is no file"),
        ({"x.csv": "path,label\n"}, ["x.csv"], "contains no labeled images"),
        ({"x.csv": "a,b\n"}, ["x.csv"], "line 1: the header is 'a,b'"),
        ({"more/x.txt": ""}, ["more"], "contains no labeled images"),
        ({}, ["absent"], "absent does not exist"),
        ({}, [".", "--html", "absent/page.html"], "cannot write absent/page.html"),
        ({}, [".", "--under", "absent"], "absent does not exist"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_kept(
    run: Run, collection: Path, files: dict[str, str], arguments: list[str], said: str
) -> None:
    assert run("evaluate", ".", cwd=collection).code == 0
    before = kept(collection).evaluation
    for name, text in files.items():
        (collection / name).parent.mkdir(exist_ok=True)
        (collection / name).write_text(text)
    done = run("evaluate", *arguments, cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("clipsearch: error: ")
    assert said in done.err
    assert len(done.err.splitlines()) == 2  # and the next step
    assert kept(collection).evaluation == before


def test_what_the_policy_refuses(run: Run, collection: Path) -> None:
    (collection / "x.csv").write_text("path,caption\nwall/0.png,who is this woman\n")
    done = run("evaluate", "x.csv", cwd=collection)
    assert (done.code, done.out) == (3, b"")
    assert done.err.startswith("clipsearch: refused: 'who is this woman'")


def test_without_an_index_it_says_how_to_make_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set/wall").mkdir(parents=True)
    make_picture(tmp_path / "set/wall/0.png")
    done = run("evaluate", "set", cwd=tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert "no indexed folder" in done.err
    assert "clipsearch index FOLDER" in done.err


def test_several_indexes_below_are_not_mixed_up(run: Run, made: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / "disk" / name)
        assert run("index", tmp_path / "disk" / name).code == 0
    shutil.copytree(made / "wall", tmp_path / "disk/test/wall")
    done = run("evaluate", "test", cwd=tmp_path / "disk")
    assert (done.code, done.out) == (2, b"")
    assert "2 indexed folders below" in done.err
    assert run("evaluate", "test", "--under", "one", cwd=tmp_path / "disk").code in (0, 1)


def test_an_index_that_is_being_written_is_not_waited_for(run: Run, collection: Path) -> None:
    with Store.open_for_writing(collection / ".clipsearch"):
        done = run("evaluate", ".", cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "another clipsearch is writing" in done.err


# -- CLIP_benchmark's archives -------------------------------------------------------------------


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of two classes with a train split; no model is loaded, and no process decodes."""
    encoder = FakeEncoder(TINY_CONFIG["model_cfg"]["embed_dim"])
    encoders = Encoders(lambda: encoder, lambda: encoder)
    monkeypatch.setattr(ModelChoice, "encoders", lambda *_: encoders)
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    folder, said = tmp_path / "wds", [("cls", b"%d" % (n % 2)) for n in range(8)]
    texts = {"classnames": "cat\ndog\n", "zeroshot_classification_templates": "a {c}."}
    write_benchmark(folder, said, split="train", first=50, archives=1)
    return write_benchmark(folder, said[:5], **texts)


def test_a_benchmark_for_people(run: Run, benchmark: Path, tiny_model: Path) -> None:
    done = run("evaluate", "wds", "--model", tiny_model, "--linear-probe")
    assert (done.code, done.err) == (0, ""), done.err
    head, blank, columns, *rows = done.lines
    assert head == f"wds: 5 images of 2 classes, for {tiny_model} (CLIP_benchmark, classification)"
    assert (blank, columns.split()) == ("", ["measure", "value", "95%", "interval", "of"])
    measures = ["acc1", "mean_per_class_recall", "lp_acc1", "lp_mean_per_class_recall"]
    assert [row.split()[0] for row in rows[:4]] == measures
    assert "a logistic regression on 8 images of the train split" in rows[-1]


def test_a_benchmark_as_json(run: Run, benchmark: Path, tiny_model: Path) -> None:
    done = run("evaluate", "wds", "--model", tiny_model, "--linear-probe", "--json")
    assert (done.code, done.err) == (0, ""), done.err
    record = json.loads(done.out)
    assert (record["kind"], record["source"]) == ("classification", "wds")
    assert record["metrics"].keys() == {
        *("acc1", "acc5", "mean_per_class_recall"),
        *("lp_acc1", "lp_acc5", "lp_mean_per_class_recall"),
    }
    assert record["metrics"]["acc5"] is record["intervals"]["acc5"] is None
    assert record["metrics"]["acc1"] == record["intervals"]["acc1"]["value"]
    assert record["report"]["images"] == record["linear_probe"]["report"]["images"] == 5
    assert record["linear_probe"]["images"] == 8
    assert record["skipped"] == []


def test_a_benchmark_of_captions(run: Run, benchmark: Path, tiny_model: Path) -> None:
    write_benchmark(benchmark, [("txt", b"a\nb")] * 3, dataset_type="retrieval")
    done = run("evaluate", "wds", "--model", tiny_model)
    assert done.lines[0].startswith("wds: 3 images, for ")
    assert any(line.startswith("image_retrieval_recall@5") for line in done.lines)


def test_a_benchmark_is_of_the_indexs_model_and_changes_no_index(
    run: Run, collection: Path, benchmark: Path, tiny_model: Path
) -> None:
    named = json.loads(run("evaluate", "wds", "--model", tiny_model, "--json").out)
    for options in (["--under", "set"], ["--index", "set/.clipsearch"], []):
        found = json.loads(run("evaluate", "wds", "--json", *options).out)
        assert found == named
    assert kept(collection).evaluation is None


def test_a_picture_of_a_benchmark_that_cannot_be_decoded(
    run: Run, benchmark: Path, tiny_model: Path
) -> None:
    write_tar(benchmark / "test/1.tar", [("x.jpg", b"broken"), ("x.cls", b"0")])
    done = run("evaluate", "wds", "--model", tiny_model, "--json")
    assert done.code == 0
    assert done.err.startswith("clipsearch: skipping test/1.tar/x.jpg: not an image")
    (skipped,) = json.loads(done.out)["skipped"]
    assert skipped["path"] == "wds/test/1.tar/x.jpg"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["wds", "--html", "page.html"], "--html reports on a domain"),
        (["wds", "--model", "pocket", "--index", "set/.clipsearch"], "--model cannot be combined"),
        (["set", "--linear-probe"], "--linear-probe needs CLIP_benchmark archives"),
        (["set", "--model", "pocket"], "--model needs CLIP_benchmark archives"),
        (["wds", "--under", "absent"], "absent does not exist"),
    ],
)
def test_options_that_do_not_go_with_a_benchmark(
    run: Run, collection: Path, benchmark: Path, arguments: list[str], said: str
) -> None:
    done = run("evaluate", *arguments)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.process
def test_a_benchmark_is_decoded_by_other_processes(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    said = [("txt", b"number %d" % n) for n in range(6)]
    write_benchmark(tmp_path / "wds", said)
    done = run("evaluate", "wds", "--model", tiny_model, "--json")
    assert (done.code, done.err) == (0, ""), done.err
    assert json.loads(done.out)["report"]["images"] == 6


@pytest.mark.slow
def test_the_sample_pictures_with_pocket(run: Run, tmp_path: Path) -> None:
    samples = SAMPLES
    shutil.copytree(samples, tmp_path / "samples", ignore=shutil.ignore_patterns(".*"))
    assert run("index", "samples", "--model", "pocket").code == 0
    done = run("evaluate", "samples", "--html", "page.html", "--json")
    assert done.code == 0
    record = json.loads(done.out)
    assert record["tested"] == "tested"
    assert record["reused"] == record["report"]["images"] == 98
    assert record["measures"]["top1"] >= 0.65
    assert record["precision"]["brier"] < 0.5 * record["precision"]["brier_of_base_rate"]
    assert len((tmp_path / "page.html").read_bytes()) < 2_000_000


def test_a_learning_curve_is_told_and_drawn(run: Run, collection: Path, tmp_path: Path) -> None:
    done = run("evaluate", ".", "--curve", "--html", "r.html", cwd=collection)
    assert (done.code, "<svg" in (collection / "r.html").read_text()) == (0, True)
    start = next(n for n, line in enumerate(done.lines) if line.startswith("Learning curve"))
    assert done.lines[start + 1].startswith("images per class ")
    firsts = [line.split()[0] for line in done.lines[start + 2 : start + 6]]
    assert firsts == ["none", "1", "2", "all"]
    record = json.loads(run("evaluate", ".", "--curve", "--json", cwd=collection).out)["curve"]
    assert [point["per_class"] for point in record["points"]] == [1, 2, None]
    assert record["classes"] == 3  # of the domain's five
    assert [point["images"] for point in record["points"]] == [3, 4, 5]
    assert json.loads(run("evaluate", ".", "--json", cwd=collection).out)["curve"] is None


def test_captions_have_no_learning_curve(run: Run, collection: Path) -> None:
    (collection / "captions.csv").write_text("path,caption\nwall/0.png,a wall\n")
    done = run("evaluate", "captions.csv", "--curve", cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert "needs images with one label each" in done.err
