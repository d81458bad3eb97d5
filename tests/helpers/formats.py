"""Small data sets in the true formats of the large ones.

torchvision knows the originals by their MD5; what stands in for them has its own, so the lists are
patched.
"""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10 as Cifar10
from torchvision.datasets import MNIST, CelebA

from vfn.data import standard

CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# The true names in the true order.
CELEBA_TAGS = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup",
    "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns",
    "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def fake_mnist(root: Path, monkeypatch, train: int = 12, test: int = 8) -> dict[str, np.ndarray]:
    """``MNIST/raw/*.gz``: IDX files, big-endian, gzipped. Gives images and labels by split."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    resources, unpacked, made = [], {}, {}
    for split, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        images, labels = noise(count, 28, 28, seed=count), np.arange(count, dtype=np.uint8) % 10
        made |= {f"{split}_images": images, f"{split}_labels": labels}
        contents = {
            f"{prefix}-images-idx3-ubyte.gz": struct.pack(">4i", 2051, count, 28, 28)
            + images.tobytes(),
            f"{prefix}-labels-idx1-ubyte.gz": struct.pack(">2i", 2049, count) + labels.tobytes(),
        }
        for name, content in contents.items():
            packed = gzip.compress(content)
            (folder / name).write_bytes(packed)
            resources.append((name, md5(packed)))
            unpacked[name.removesuffix(".gz")] = md5(content)
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr(standard, "MNIST_MD5", unpacked)
    return made


def fake_cifar10(root: Path, monkeypatch, per_batch: int = 4) -> dict[str, np.ndarray]:
    """``cifar-10-python.tar.gz``: pickled batches. Gives images [N, 3, 32, 32] and labels."""
    files, made = {}, {}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = noise(per_batch, 3072, seed=number)
        labels = [(number + i) % 10 for i in range(per_batch)]
        made[name] = (data.reshape(-1, 3, 32, 32), labels)
        batch = {
            "batch_label": f"batch {number}",
            "labels": labels,
            "data": data,
            "filenames": [f"{i}.png" for i in range(per_batch)],
        }
        files[name] = pickle.dumps(batch, protocol=2)
    meta = {"num_cases_per_batch": per_batch, "label_names": list(CIFAR_CLASSES), "num_vis": 3072}
    files["batches.meta"] = pickle.dumps(meta, protocol=2)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    root.mkdir(parents=True, exist_ok=True)
    (root / "cifar-10-python.tar.gz").write_bytes(archive.getvalue())
    sums = [[name, md5(content)] for name, content in files.items()]
    monkeypatch.setattr(Cifar10, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(Cifar10, "train_list", sums[:5])
    monkeypatch.setattr(Cifar10, "test_list", sums[5:6])
    monkeypatch.setattr(Cifar10, "meta", {**Cifar10.meta, "md5": sums[6][1]})
    train = [made[name] for name, _ in sums[:5]]
    return {
        "train_images": np.concatenate([images for images, _ in train]),
        "train_labels": np.concatenate([labels for _, labels in train]),
        "test_images": made["test_batch"][0],
        "test_labels": np.array(made["test_batch"][1]),
    }


def fake_celeba(
    root: Path, monkeypatch, splits: tuple[int, int, int] = (6, 2, 4), packed: bool = False
) -> dict[str, np.ndarray]:
    """``celeba/``: lists and 178x218 JPEGs, as files or in their zip. Gives tags [N, 40]."""
    folder = root / "celeba"
    folder.mkdir(parents=True)
    count = sum(splits)
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    tags = np.random.default_rng(5).integers(0, 2, (count, 40))
    part = np.repeat([0, 1, 2], splits)

    def table(rows, *head: str, width: int = 2) -> bytes:
        lines = [
            f"{name} {' '.join(f'{v:{width}d}' for v in row)}"
            for name, row in zip(names, rows, strict=True)
        ]
        return ("\n".join([*head, *lines]) + "\n").encode()

    points = ["lefteye", "righteye", "nose", "leftmouth", "rightmouth"]
    landmarks = " ".join(f"{point}_{axis}" for point in points for axis in "xy")
    lists = {
        "list_attr_celeba.txt": table(2 * tags - 1, str(count), " ".join(CELEBA_TAGS) + " "),
        "identity_CelebA.txt": table(np.full((count, 1), 2880), width=1),
        "list_bbox_celeba.txt": table(
            np.full((count, 4), 95), str(count), "image_id x_1 y_1 width height", width=3
        ),
        "list_landmarks_align_celeba.txt": table(
            np.full((count, 10), 69), str(count), landmarks + " ", width=4
        ),
        "list_eval_partition.txt": table(part[:, None], width=1),
    }
    for name, content in lists.items():
        (folder / name).write_bytes(content)
    pictures = {name: celeba_jpeg(i) for i, name in enumerate(names)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in pictures.items():
            zipped.writestr(f"img_align_celeba/{name}", content)
    if packed:
        (folder / "img_align_celeba.zip").write_bytes(archive.getvalue())
    else:
        (folder / "img_align_celeba").mkdir()
        for name, content in pictures.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
    sums = {
        **{n: md5(c) for n, c in lists.items()},
        "img_align_celeba.zip": md5(archive.getvalue()),
    }
    monkeypatch.setattr(
        CelebA, "file_list", [(file_id, sums[name], name) for file_id, _, name in CelebA.file_list]
    )
    return {"tags": tags, "partition": part}


def celeba_jpeg(number: int) -> bytes:
    """A smooth picture, 178 wide and 218 high, another one for each number."""
    small = Image.fromarray(noise(5, 4, 3, seed=100 + number))
    buffer = io.BytesIO()
    small.resize((178, 218), Image.Resampling.BICUBIC).save(buffer, format="JPEG")
    return buffer.getvalue()


def save_pictures(folder: Path, images: dict[str, np.ndarray]) -> None:
    """Each array as the file that its name says, below a folder."""
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
