"""Tiny data sets, byte by byte in each format as its owner ships it, the real ones, and what the bench is tried on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from offline.dataset.splits import SplitConfig
from offline.protocols import Plan, plan_of
from offline.protocols.targets import Targets
from tests.offline.shop import write_shop
from tests.offline.tastes import dataset_of_tastes

CSV = {
    "ratings.csv": (
        b"userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n1,3,4.5,964981247\r\n2,1,0.5,1445714835\r\n"
    ),
    "movies.csv": (
        "movieId,title,genres\n"
        "1,Toy Story (1995),Adventure|Animation|Children\n"
        '2,"American President, The (1995)",Comedy|Drama|Romance\n'
        '3,"Misérables, Les (1995)",(no genres listed)\n'
    ).encode(),
    "tags.csv": b'userId,movieId,tag,timestamp\n2,1,"funny, ""really""",1445714994\n1,3,dark,1445714900\n',
    "links.csv": b"movieId,imdbId,tmdbId\n1,0114709,862\n3,0112641,\n",
}
DAT = {
    "ratings.dat": b"1::1193::5::978300760\n1::1::3::978302109\n3::1::4::978301968\n",
    "movies.dat": (
        "1::Toy Story (1995)::Animation|Children's|Comedy\n"
        "73::Misérables, Les (1995)::Drama|Musical\n"
        "1193::One Flew :: Over: the Cuckoo's Nest (1975)::Drama\n"
    ).encode("latin-1"),
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117-0001\n",
}
TENM = {
    "ratings.dat": b"1::122::5::838985046\n2::185::4.5::838983525\n",
    "movies.dat": "122::Boomerang (1992)::Comedy\n185::Cité, La (1995)::Action|Thriller\n".encode(),
    "tags.dat": "15::185::excellent: really :: so!::1215184630\n2::122::año::1188263867\n".encode(),
}
K100 = {
    "u.data": b"196\t242\t3\t881250949\n186\t302\t4\t891717742\n196\t302\t1\t881250949\n",
    "u.item": (
        "242|Kolya (1996)|24-Jan-1997||http://imdb/Kolya%20(1996)|" + "|".join("0000010000000000000")
        + "\n302|Café, L' (V)|01-Jan-1997||http://x|" + "|".join("0000001010100000100")
        + "\n267|unknown||||" + "|".join("1000000000000000000") + "\n"
    ).encode("latin-1"),
    "u.user": b"186|39|F|executive|00000\n196|49|M|writer|55105\n",
}  # fmt: skip


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes], *, inner: str) -> Path:
    """Writes files into a zip, below the folder `inner` as GroupLens does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"README.txt": b"read me", **files}.items():
            archive.writestr(f"{inner}/{name}", content)
        archive.writestr(f"__MACOSX/{inner}/ratings.csv", b"junk")
    return path


@pytest.fixture
def shipped() -> SimpleNamespace:
    """Files by name of each format, and functions that write them."""
    return SimpleNamespace(
        csv=dict(CSV), dat=dict(DAT), tenm=dict(TENM), k100=dict(K100), write_folder=write_folder, write_zip=write_zip
    )


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets next to the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture
def leave_one_out() -> tuple[Plan, Targets]:
    """Leave-one-out of the world of tastes, and what its test asks."""
    plan = plan_of(dataset_of_tastes(), SplitConfig(protocol="leave-one-out"))
    known = plan.test.training_view
    return plan, plan.test.ask(known.dataset.snapshot(known.cutoff), "last")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small shop's interactions; tests only read it."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    return folder
