"""Measure clipsearch against references that anyone has, in one run on one machine.

    python tests/benchmarks/run.py [--photos 200] [--rows 1000000] [--only NAME ...]

Every figure is a ratio or stands beside the reference that was measured in the same minutes, so
that it can be compared between machines. The model is ViT-B-16 at full size with random weights:
the same computation as with the published ones. Takes about twenty minutes and 5 GB of disk.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line has it

import numpy as np
from PIL import Image, ImageFilter

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "sample_data"
MODEL_CFG = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
    },
}
PREPROCESS_CFG = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
GFLOP_PER_IMAGE = 35.2
"""Of ViT-B/16 at 224 x 224, counting a multiplication and an addition as two."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    ours: str
    reference: str
    ratio: str
    target: str


@dataclass
class Bench:
    """The folder that everything happens in, and the rows so far."""

    place: Path
    photos: int
    rows: int
    table: list[Row]
    tower_rate: float = 0.0

    @property
    def model(self) -> Path:
        return self.place / "vit-b-16"

    def add(self, figure: str, ours: str, reference: str = "", ratio: str = "", target: str = ""):
        row = Row(figure, ours, reference, ratio, target)
        self.table.append(row)
        print("  " + " | ".join((row.figure, row.ours, row.reference, row.ratio, row.target)))


def clipsearch(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "clipsearch", *arguments]


def seconds(command: list[str | Path], runs: int = 1, cwd: Path | None = None) -> float:
    """Wall time of a command in a process of its own: the median of ``runs``."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cwd)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@contextmanager
def own_places(place: Path) -> Iterator[None]:
    os.environ["CLIPSEARCH_DATA_DIR"] = str(place / "data")
    os.environ["CLIPSEARCH_CACHE_DIR"] = str(place / "cache")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled
    yield


def make_model(folder: Path) -> None:
    """ViT-B-16 with random weights as a hub snapshot."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    if folder.exists():
        return
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL_CFG)
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )


def make_photos(folder: Path, count: int) -> Path:
    """12-megapixel JPEGs: parts of the sample photographs, enlarged, with a sensor's noise."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(SAMPLES.rglob("*.jpg"))
    noise = np.random.default_rng(0).normal(0, 4, (3000, 4000, 3)).astype(np.float32)
    for n in range(len(list(folder.glob("*.jpg"))), count):
        image = Image.open(sources[n % len(sources)]).convert("RGB")
        shrink = 1 - 0.02 * (n // len(sources))
        box = (0, 0, int(image.width * shrink), int(image.height * shrink))
        large = image.resize((4000, 3000), Image.Resampling.LANCZOS, box=box)
        large = large.filter(ImageFilter.UnsharpMask(3))
        grainy = np.clip(np.asarray(large) + np.roll(noise, 37 * n, axis=0), 0, 255)
        Image.fromarray(grainy.astype(np.uint8)).save(folder / f"{n:04}.jpg", quality=88)
    return folder


def fake_collection(bench: Bench, rows: int) -> Path:
    """A collection of random unit vectors under names without files, made through the store."""
    from clipsearch.models import registry
    from clipsearch.models.text_encoder import TextEncoder
    from clipsearch.records import EmbeddedImage, ImageFile
    from clipsearch.storage import collection
    from clipsearch.storage.catalog import FOLDER, Store

    root = bench.place / f"collection-{rows}"
    if root.exists():
        return root
    root.mkdir()
    files = registry.resolve(str(bench.model), None, offline=True, notify=print)
    rng = np.random.default_rng(0)
    with Store.create(root / FOLDER, root, files.spec) as store:
        for start in range(0, rows, 10_000):
            vectors = rng.standard_normal((min(10_000, rows - start), 512)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            with store.batch():
                store.add(
                    EmbeddedImage(
                        ImageFile(f"{start // 1000:05}/{start + n:08}.jpg".encode(), 1, start + n),
                        (start + n).to_bytes(20, "big"),
                        640,
                        480,
                        None,
                        vector,
                    )
                    for n, vector in enumerate(vectors)
                )
        store.update_vector_index()
        collection.calibrate(store, lambda: TextEncoder(files))
    return root


def bench_tower(bench: Bench) -> None:
    """The image tower alone against the machine's own matrix product."""
    import torch

    from clipsearch.models import registry
    from clipsearch.models.open_clip import OpenClipEncoder

    files = registry.resolve(str(bench.model), None, offline=True, notify=print)
    encoder = OpenClipEncoder(files, "cpu")
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(16 * 197, 768).to(dtype)
        b = torch.nn.Linear(768, 3072).to(dtype)
        peaks[dtype] = 2 * a.shape[0] * 768 * 3072 / best(lambda a=a, b=b: b(a), 10) / 1e9
    pixels = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    rate = 16 / best(lambda: encoder.encode_images(pixels), 5)
    for dtype, peak in peaks.items():
        name = str(dtype).removeprefix("torch.")
        note = " (chosen)" if dtype == encoder.dtype else ""
        bench.add(
            f"image tower, share of the {name} matrix peak{note}",
            f"{rate:.1f} img/s",
            f"{peak:.0f} GFLOP/s",
            f"{rate * GFLOP_PER_IMAGE / peak:.2f}",
            ">= 0.80" if dtype == encoder.dtype else "",
        )
    bench.tower_rate = rate
    with suppress(ImportError):  # a reference that not everyone has
        exported = onnxruntime_rate(bench, pixels)
        bench.add(
            "image tower, against onnxruntime with the same model exported",
            f"{rate:.1f} img/s",
            f"{exported:.1f} img/s",
            f"{rate / exported:.1f}x",
            "",
        )


def onnxruntime_rate(bench: Bench, pixels: np.ndarray) -> float:
    """Images a second of the image tower in fp32, exported from open_clip's own model."""
    import onnxruntime
    import onnxscript  # noqa: F401  (what torch exports with)
    import open_clip
    import torch

    exported = bench.place / "image-tower.onnx"
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    if not exported.exists():
        tower = open_clip.CLIP(**MODEL_CFG).eval().visual
        torch.onnx.export(tower, (tensor,), str(exported), dynamo=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(exported, options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: tensor.numpy()}
    return len(pixels) / best(lambda: session.run(None, feed), 3)


def bench_texts(bench: Bench) -> None:
    """The texts of the default domain, which the first index with a model embeds."""
    import open_clip

    from clipsearch.domain import background, taxonomy
    from clipsearch.models import registry
    from clipsearch.models.open_clip import OpenClipEncoder
    from clipsearch.models.text_encoder import TextEncoder
    from clipsearch.storage import texts

    files = registry.resolve(str(bench.model), None, offline=True, notify=print)
    domain = taxonomy.load(taxonomy.DEFAULT)
    count = sum(len(domain.prompts(n)) for n in range(len(domain.classes)))
    count += len(domain.in_domain) + len(domain.out_of_domain) + len(background.unrelated(domain))

    def embed(encoder: TextEncoder) -> tuple[float, float, np.ndarray]:
        start, cpu = time.perf_counter(), time.process_time()
        found = texts.Texts.embed(domain, encoder)
        rows = np.concatenate([found.gate.classes, found.background])
        return time.perf_counter() - start, time.process_time() - cpu, rows

    ours, cpu, exact = embed(TextEncoder(files))
    fast = OpenClipEncoder(files, "cpu").for_many_texts()
    tokens = open_clip.tokenize(list(domain.in_domain[:64]))
    model = open_clip.CLIP(**MODEL_CFG).eval()
    naive = best(lambda: model.encode_text(tokens), 2) * count / 64
    bench.add(
        f"the domain's {count:,} texts, embedded once for a model",
        f"{ours:.1f} s, {cpu:.1f} s of CPU",
        f"open_clip fp32, batches of 64 {naive:.0f} s",
        f"{naive / ours:.1f}x",
        "",
    )
    if fast:
        ours, cpu, rounded = embed(fast)
        worst = (exact * rounded).sum(axis=1).min()
        bench.add(
            "the same where the image tower computes in bf16",
            f"{ours:.1f} s, {cpu:.1f} s of CPU, worst cosine {worst:.5f}",
            f"open_clip fp32 {naive:.0f} s",
            f"{naive / ours:.1f}x",
            "<= 3 s",
        )
    # For the benchmarks that follow, as for every index but a model's first.
    texts.embedded_texts(domain, files.spec, lambda: TextEncoder(files))


def best(action: Callable[[], object], runs: int) -> float:
    """The shortest of several runs, after one to warm up."""
    import torch

    times = []
    with torch.inference_mode():
        action()
        for _ in range(runs):
            start = time.perf_counter()
            action()
            times.append(time.perf_counter() - start)
    return min(times)


def bench_index(bench: Bench) -> None:
    """`index` over 12-megapixel JPEGs against the tower's own rate and the naive pipeline."""
    photos = make_photos(bench.place / "photos", bench.photos)
    subprocess.run(["rm", "-rf", photos / ".clipsearch"], check=True)
    seconds([sys.executable, "-c", "import open_clip"])  # warm the page cache
    bare = seconds([sys.executable, "-c", "import open_clip"], runs=3)
    start = time.perf_counter()
    process = subprocess.Popen(clipsearch("index", photos, "--model", bench.model))
    first, marks = None, []
    catalog = photos / ".clipsearch" / "catalog.sqlite3"
    peak = 0.0
    while process.poll() is None:
        with suppress(OSError):  # wait4's figure would begin with the memory of this process
            told = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) / 1e6 for line in told if "VmHWM" in line)])
        count = count_rows(catalog)
        if count and (not marks or count != marks[-1][1]):
            marks.append((time.perf_counter() - start, count))
            first = first or marks[0][0]
        time.sleep(0.02)
    total = time.perf_counter() - start
    assert process.returncode == 0
    assert first is not None
    rate = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
    tower = bench.tower_rate
    if tower:
        bench.add(
            "index, share of the tower's own rate",
            f"{rate:.1f} img/s",
            f"{tower:.1f} img/s",
            f"{rate / tower:.2f}",
            ">= 0.80",
        )
    bench.add(
        "first embedding committed, against import open_clip",
        f"{first:.1f} s",
        f"{bare:.1f} s",
        f"{first / bare:.2f}",
        "<= 1.3",
    )
    bench.add("peak memory of index", f"{peak:.2f} GB", "", "", "<= 2.5 GB")
    naive = bench.place / "naive.npy"
    naive_total, naive_rate = naive_index(bench, photos, naive)
    bench.add(
        "index against the naive pipeline, rate alone",
        f"{rate:.1f} img/s",
        f"{naive_rate:.1f} img/s",
        f"{rate / naive_rate:.1f}x",
        ">= 4.2x",
    )
    bench.add(
        f"the same, {bench.photos} photos with start-up",
        f"{total:.0f} s",
        f"{naive_total:.0f} s",
        f"{naive_total / total:.1f}x",
        ">= 3.5x",
    )
    fidelity(bench, photos, np.load(naive))


def naive_index(bench: Bench, photos: Path, vectors: Path) -> tuple[float, float]:
    """The seconds that the naive pipeline takes with start-up, and its images a second without.

    Its embeddings are saved as ``vectors``.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, HERE / "naive.py", "index", bench.model, photos, vectors],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, bench.photos / float(done.stdout.split()[-1])


def bench_first_use(bench: Bench) -> None:
    """`index` with a model that was never used here: the domain's texts are embedded, too."""
    photos = make_photos(bench.place / "photos", bench.photos)
    shutil.rmtree(photos / ".clipsearch", ignore_errors=True)
    shutil.rmtree(bench.place / "cache" / "texts", ignore_errors=True)
    ours = seconds(clipsearch("index", photos, "--model", bench.model))
    naive, _ = naive_index(bench, photos, bench.place / "naive.npy")
    bench.add(
        f"index, first use of a model, {bench.photos} photos with start-up",
        f"{ours:.1f} s",
        f"naive {naive:.1f} s",
        f"{naive / ours:.2f}x",
        ">= 2.5x",
    )


def fidelity(bench: Bench, photos: Path, reference: np.ndarray) -> None:
    """Our stored vectors against open_clip's own in fp32 with a full decode."""
    from clipsearch.storage.catalog import FOLDER, Store

    with Store.open(photos / FOLDER) as store:
        known = store.known()
        ours = np.stack([store.vector(known[path].id) for path in sorted(known)])
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    cosines = (ours * reference).sum(axis=1)
    bench.add(
        "fidelity to open_clip fp32, full decode: mean", f"{cosines.mean():.5f}", "", "", ">= 0.999"
    )
    bench.add("the same: worst", f"{cosines.min():.5f}", "", "", ">= 0.995")


def count_rows(catalog: Path) -> int:
    import sqlite3

    try:
        connection = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=0)
        with connection:
            return int(connection.execute("SELECT count(*) FROM vectors").fetchone()[0])
    except sqlite3.Error:
        return 0


def bench_search(bench: Bench) -> None:
    """A text query in a cold process."""
    query = ["search", "a photo of a red bicycle", "-k", "10", "--all"]
    root = fake_collection(bench, 10_000)
    vectors = bench.place / "10000.npy"
    np.save(vectors, np.random.default_rng(0).standard_normal((10_000, 512)).astype(np.float32))
    ours = seconds(clipsearch(*query), runs=7, cwd=root)
    naive = seconds(
        [sys.executable, HERE / "naive.py", "search", bench.model, vectors, query[1]], runs=3
    )
    bench.add(
        "text search, cold, 10,000 images",
        f"{ours:.2f} s",
        f"naive {naive:.1f} s",
        f"{naive / ours:.0f}x",
        "<= 0.30 s, >= 20x",
    )
    root = fake_collection(bench, bench.rows)
    ours = seconds(clipsearch(*query), runs=5, cwd=root)
    scan = numpy_scan(bench.rows)
    bench.add(
        f"text search, cold, {bench.rows:,} images, exact",
        f"{ours:.2f} s",
        f"numpy fp32 scan alone {scan:.2f} s",
        f"{scan / ours:.1f}x",
        "<= 0.45 s",
    )
    private = private_megabytes(clipsearch(*query), root)
    bench.add("the same, private memory", f"{private:.0f} MB", "", "", "<= 250 MB")
    bench.add("--help", f"{seconds(clipsearch('--help'), runs=7):.2f} s", "", "", "<= 0.20 s")


def bench_batch(bench: Bench) -> None:
    """A thousand text queries in one process, against open_clip's text tower and numpy."""
    import open_clip
    import torch

    from clipsearch.domain import taxonomy

    domain = taxonomy.load(taxonomy.DEFAULT)
    prompts = [text for n in range(len(domain.classes)) for text in domain.prompts(n)]
    queries = list(dict.fromkeys([*domain.in_domain, *prompts]))[:1000]
    root = fake_collection(bench, 10_000)
    command = clipsearch("search", "--batch", "--all", "--allow-out-of-domain")
    text = "".join(f"{query}\n" for query in queries)
    start = time.perf_counter()
    done = subprocess.run(command, check=True, cwd=root, input=text, capture_output=True, text=True)
    ours = time.perf_counter() - start
    assert len(done.stdout.splitlines()) == len(queries) == 1000
    model = open_clip.CLIP(**MODEL_CFG).eval()
    matrix = np.random.default_rng(0).standard_normal((10_000, 512)).astype(np.float32)
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(queries), 64):
            vectors = model.encode_text(open_clip.tokenize(queries[first : first + 64])).numpy()
            np.argpartition(-(vectors @ matrix.T), 10)
    naive = time.perf_counter() - start
    bench.add(
        "search --batch, 1,000 text queries, 10,000 images, whole process",
        f"{ours:.1f} s",
        f"open_clip fp32 in batches of 64, and numpy, once loaded {naive:.1f} s",
        f"{naive / ours:.1f}x",
        "< 10 s",
    )


def numpy_scan(rows: int) -> float:
    """The time of one product of a float32 matrix in memory with a vector, and a partial sort."""
    matrix = np.ones((rows, 512), np.float32)
    query = np.ones(512, np.float32)
    start = time.perf_counter()
    np.argpartition(-(matrix @ query), 10)
    return time.perf_counter() - start


def private_megabytes(command: list[str | Path], cwd: Path) -> float:
    """The most memory of its own (not shared, not mapped from files) that a process had."""
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    most = max(most, int(line.split()[1]))
        except OSError:
            break
        time.sleep(0.002)
    process.wait()
    return most / 1000


def collection_with_files(bench: Bench, rows: int) -> Path:
    """A collection of random unit vectors with an empty file for each, a thousand a folder."""
    from clipsearch.images import scan
    from clipsearch.models import registry
    from clipsearch.models.text_encoder import TextEncoder
    from clipsearch.records import EmbeddedImage
    from clipsearch.storage import collection
    from clipsearch.storage.catalog import FOLDER, Store

    root = bench.place / f"files-{rows}"
    if root.exists():
        return root
    for n in range(rows):
        folder = root / f"{n // 1000:04}"
        if n % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"IMG_{n:08}.jpg").touch()
    files = registry.resolve(str(bench.model), None, offline=True, notify=print)
    rng = np.random.default_rng(0)
    found = scan.find(os.fsencode(root)).files
    with Store.create(root / FOLDER, root, files.spec) as store:
        for start in range(0, rows, 10_000):
            some = found[start : start + 10_000]
            vectors = rng.standard_normal((len(some), 512)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            with store.batch():
                store.add(
                    EmbeddedImage(file, n.to_bytes(20, "big"), 640, 480, None, vector)
                    for n, (file, vector) in enumerate(zip(some, vectors, strict=True), start)
                )
        store.update_vector_index()
        collection.calibrate(store, lambda: TextEncoder(files))
    seconds(clipsearch("index", root))  # compares every file, and lists the folders
    return root


def bare_walk(root: Path) -> float:
    """CPU seconds of ``os.scandir`` and ``stat`` of every file below a folder."""
    start, folders = time.process_time(), [os.fsencode(root)]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                entry.stat(follow_symlinks=False)
    return time.process_time() - start


def cpu_seconds(command: list[str | Path], runs: int = 1, cwd: Path | None = None) -> float:
    """Processor time of a command in a process of its own, user and system: the median.

    Unlike wall time, it is hardly changed by what else a shared machine does.
    """
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


def add_picture(root: Path) -> None:
    """Put one new image into a collection, in the middle of a folder that is there."""
    pixels = np.random.default_rng(time.time_ns()).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "0000" / f"new-{time.time_ns()}.png")


def bench_walk(bench: Bench) -> None:
    """`index` with nothing to do: 60,000 files that the catalog knows."""
    root = collection_with_files(bench, 60_000)
    ours = cpu_seconds(clipsearch("index", root), runs=5)
    bare = statistics.median(bare_walk(root) for _ in range(5))
    bench.add(
        "index with nothing to do, 60,000 files, processor time",
        f"{ours:.2f} s",
        f"os.scandir and stat {bare:.2f} s",
        f"{ours / bare:.1f}x",
        "<= 2.5x",
    )


def bench_change(bench: Bench) -> None:
    """One new image in a large collection, against the same in a small one."""
    costs = []
    for rows in (1000, bench.rows):
        root = collection_with_files(bench, rows)
        add_picture(root)
        costs.append(cpu_seconds(clipsearch("index", root)))
    bare = bare_walk(root)
    bench.add(
        f"one new image in {bench.rows:,}, processor time",
        f"{costs[1]:.1f} s",
        f"in 1,000 {costs[0]:.1f} s; os.scandir and stat {bare:.1f} s",
        f"+{costs[1] - costs[0]:.1f} s",
        "<= 5 s",
    )


def bench_growth(bench: Bench) -> None:
    """What commands cost as a collection grows, in processor time."""
    for rows in (1_000, 10_000, 100_000, 1_000_000):
        if rows > bench.rows:
            break
        root = collection_with_files(bench, rows)
        nothing = cpu_seconds(clipsearch("index", root), runs=3)
        query = ["search", "a photo of a red bicycle", "-k", "10", "--all"]
        search = cpu_seconds(clipsearch(*query), runs=5, cwd=root)
        status = cpu_seconds(clipsearch("status", root), runs=3)
        add_picture(root)
        change = cpu_seconds(clipsearch("index", root))
        bench.add(
            f"{rows:,} images: index with nothing to do, search, status, one change",
            f"{nothing:.2f}, {search:.2f}, {status:.2f}, {change:.2f} s",
            f"os.scandir and stat {bare_walk(root):.2f} s",
        )


def bench_duplicates(bench: Bench) -> None:
    """Every pair of a collection compared, by a threshold that was given."""
    for rows in (50_000, 100_000):
        root = fake_collection(bench, rows)
        command = clipsearch("duplicates", root, "--bursts", "--threshold", "0.95")
        start = time.perf_counter()
        ours = cpu_seconds(command)
        wall = time.perf_counter() - start
        matrix = np.random.default_rng(0).standard_normal((rows, 512)).astype(np.float32)
        start = time.process_time()
        for first in range(0, 2_000, 500):
            (matrix[first : first + 500] @ matrix.T).max(axis=1)
        naive = (time.process_time() - start) * rows / 2_000
        bench.add(
            f"duplicates, every pair of {rows:,}",
            f"{wall:.0f} s, {ours:.0f} s of processor time",
            f"numpy fp32, all products, {naive:.0f} s",
            f"{naive / ours:.1f}x",
            "",
        )


_QUERIES_A_SECOND, _SECONDS = 20, 60


def bench_browse(bench: Bench) -> None:
    """`browse` answering queries at a steady rate, whether it keeps up or not."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import quote
    from urllib.request import urlopen

    from clipsearch.domain import taxonomy

    domain = taxonomy.load(taxonomy.DEFAULT)
    texts = [text for n in range(len(domain.classes)) for text in domain.prompts(n)]
    root = fake_collection(bench, 10_000)
    server = subprocess.Popen(clipsearch("browse", root), stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    url = next(line for line in server.stderr if "browse at" in line).split()[-1]
    begun = time.perf_counter()

    def ask(number: int) -> float:
        """Seconds from when the answer was wanted until it was there."""
        due = begun + number / _QUERIES_A_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        with urlopen(f"{url}?q={quote(texts[number % len(texts)])}") as answer:
            assert b"</html>" in answer.read()
        return time.perf_counter() - due

    try:
        with ThreadPoolExecutor(50) as threads:
            times = sorted(threads.map(ask, range(_QUERIES_A_SECOND * _SECONDS)))
        told = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    finally:
        server.terminate()
        server.wait()
    cpu = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
    bench.add(
        f"browse, {_QUERIES_A_SECOND} new texts a second for {_SECONDS} s, 10,000 images",
        f"median {1000 * times[len(times) // 2]:.0f} ms, "
        f"95% within {1000 * times[int(0.95 * len(times))]:.0f} ms, "
        f"worst {1000 * times[-1]:.0f} ms",
        f"{1000 * cpu / len(times):.0f} ms of processor time a query",
    )


def bench_clusters(bench: Bench) -> None:
    """A search through clusters against the exact one, in one process, over synthetic vectors.

    Images are 20,000 kinds with noise, texts are kinds shifted by one vector for all. How many
    clusters must be read depends on the data: of real collections, `status` tells.
    """
    from clipsearch.storage.vectors.new_vector_file import NewVectorFile
    from clipsearch.storage.vectors.vector_file import VectorIndex
    from clipsearch.vectors import l2_normalise

    rng = np.random.default_rng(0)
    spectrum = 1 / np.sqrt(np.arange(1, 513, dtype=np.float32))
    spectrum /= np.linalg.norm(spectrum)
    kinds = rng.standard_normal((20_000, 512), np.float32) * spectrum
    picture_shift, text_shift = 0.8 * spectrum, 1.2 * np.eye(512, dtype=np.float32)[-1]

    def embeddings(count: int, shift: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((count, 512), np.float32) * spectrum
        return l2_normalise(shift + 0.75 * kinds[rng.integers(0, len(kinds), count)] + 0.35 * noise)

    def pictures() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, bench.rows, 10_000):
            ids = np.arange(start, min(start + 10_000, bench.rows))
            yield ids, embeddings(len(ids), picture_shift).astype(np.float16)

    texts = embeddings(341, text_shift)
    path, token = bench.place / "clusters.faiss", bytes(16)
    with NewVectorFile(path, 512, token) as file:
        file.write(pictures())
        start = time.perf_counter()
        measured = file.invert(texts)
        inverting = time.perf_counter() - start
        file.replace()
    index = VectorIndex.read(path, 512, token)

    def search(exact: bool) -> float:
        times = []
        for query in texts[1:42:2]:
            start = time.perf_counter()
            index.search(query, 10, exact=exact)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    search(exact=True)  # warm the page cache
    through, exactly = search(exact=False), search(exact=True)
    bench.add(
        f"search through clusters, {bench.rows:,} synthetic vectors",
        f"{1000 * through:.0f} ms, recall@10 {measured.recall:.3f}",
        f"exact {1000 * exactly:.0f} ms",
        f"{exactly / through:.1f}x",
        ">= 0.99",
    )
    bench.add("inverting the file", f"{inverting:.0f} s")
    path.unlink()


BENCHES = {
    "tower": bench_tower,
    "texts": bench_texts,
    "first-use": bench_first_use,
    "index": bench_index,
    "search": bench_search,
    "batch": bench_batch,
    "clusters": bench_clusters,
    "walk": bench_walk,
    "change": bench_change,
    "growth": bench_growth,
    "duplicates": bench_duplicates,
    "browse": bench_browse,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--place", type=Path, help="keep the files here for another run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.place or Path(temporary)
        with own_places(place):
            bench = Bench(place, arguments.photos, arguments.rows, [])
            make_model(bench.model)
            for name in arguments.only:
                print(name, flush=True)
                BENCHES[name](bench)
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| figure | clipsearch | reference | ratio | target |\n|---|---|---|---|---|")
    for row in bench.table:
        cells = (row.figure, row.ours, row.reference, row.ratio, row.target)
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
