"""A step's code is what its function imports, near or far, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from offline.evaluation.evaluate import write_report
from offline.ranking.blend import choose_blend
from offline.ranking.rankers.kinds import NetworkRanker, TreeRanker
from offline.ranking.samples import sample_fold, save_features
from offline.steps.code import PACKAGES, ROOT, closure, code_digest, files_digest, source_file
from offline.steps.linking import link_folders
from offline.steps.workspace import Workspace
from recsys.channels import CHANNELS
from recsys.errors import ContractBroken

NO_STEP = (
    "gateway/api/servicer.py",
    "offline/commands/cli.py",
    "offline/studies/report/page.py",
    "recsys/server/server.py",
)
"""Files that no step's outcome depends on."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our packages, to be edited."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def digest(root: Path, module: str) -> str:
    """The digest of the code of a step whose function is in `module`."""
    return files_digest(closure([root / module], root), root)


def edited(root: Path, module: str, file: str) -> bool:
    """Whether an edit of `file` changes the digest of `module`'s step; the edit is taken back."""
    before, path = digest(root, module), root / file
    text = path.read_text("utf-8")
    path.write_text(f"{text}\nEDITED = True\n", "utf-8")
    try:
        return digest(root, module) != before
    finally:
        path.write_text(text, "utf-8")


def file_of(place: str) -> str:
    """The file of `module:name`."""
    return place.partition(":")[0].replace(".", "/") + ".py"


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_is_trained_again_when_its_code_changes_and_not_for_another_channel_s(copy: Path, name: str) -> None:
    """Its channel module writes or reads its files; `recsys/ordering.py` is two imports away."""
    spec = CHANNELS[name]
    trainer, channel = file_of(spec.trainer), file_of(spec.channel)
    for file in (trainer, channel, "recall_server/channels/base.py", "recsys/ordering.py", "offline/dataset/tables.py"):
        assert edited(copy, trainer, file), file
    others = [other for other in CHANNELS.values() if other.name != name]
    of_others = {file_of(place) for other in others for place in (other.trainer, other.channel)}
    assert [file for file in (*of_others, *NO_STEP, "recsys/channels.py") if edited(copy, trainer, file)] == []


@pytest.mark.parametrize(
    ("work", "files"),
    [
        (choose_blend, ("gateway/pipeline/merge.py", "offline/protocols/windows.py", "offline/metrics/ranking.py")),
        (save_features, ("recsys/features/user.py", "recsys/ordering.py")),
        (sample_fold, ("gateway/pipeline/filters.py", "recsys/features/user.py", "offline/protocols/held_out.py")),
        (write_report, ("gateway/pipeline/rerank.py", "rank_server/scoring.py", "offline/evaluation/results.py")),
        (TreeRanker, ("offline/ranking/rankers/trees_export.py", "offline/ranking/samples/arrays.py")),
        (NetworkRanker, ("offline/ranking/rankers/network/model.py", "rank_server/scoring.py")),
    ],
)
def test_steps_of_the_ranker_depend_on_what_makes_them(
    copy: Path, work: Callable[..., object], files: tuple[str, ...]
) -> None:
    module = source_file(work).relative_to(ROOT).as_posix()
    assert [file for file in files if not edited(copy, module, file)] == []
    assert [file for file in NO_STEP if edited(copy, module, file)] == []


def test_a_step_depends_on_what_it_names_and_does_not_import(tmp_path: Path) -> None:
    """What is loaded by name, like the channels of the recall view, is in the key by `also`."""
    workspace, nothing = Workspace(tmp_path / "work"), partial(link_folders, [])
    named = ([], [TreeRanker], [TreeRanker, NetworkRanker])
    keys = {workspace.run("view", nothing, also=also).key for also in named}
    workspace.release()
    assert len(keys) == 3


def test_our_packages_are_those_of_the_import_rules() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    assert sorted(PACKAGES) == sorted(rules["root_packages"])


def test_one_ranker_is_not_trained_again_for_another(copy: Path) -> None:
    trees, network = (source_file(kind).relative_to(ROOT).as_posix() for kind in (TreeRanker, NetworkRanker))
    assert not edited(copy, trees, network)
    assert not edited(copy, network, trees)


def test_comparing_functions_methods_and_partials_by_where_they_are_defined() -> None:
    bound = object.__new__(TreeRanker).write_graph
    assert source_file(bound) == source_file(TreeRanker) == ROOT / "offline/ranking/rankers/trees.py"
    assert source_file(partial(partial(choose_blend, None), None)) == ROOT / "offline/ranking/blend.py"
    assert (
        code_digest([choose_blend])
        != code_digest([choose_blend, TreeRanker])
        == code_digest([TreeRanker, choose_blend])
    )


def test_a_function_without_a_file_is_refused() -> None:
    typed_in: dict[str, object] = {"__name__": "typed_in"}
    exec("def work(folder): ...", typed_in)
    with pytest.raises(ContractBroken, match=r"typed_in\.work is in no file"):
        code_digest([typed_in["work"]])  # type: ignore[list-item]


STEP = """
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from offline.recall.popularity import PopularityConfig, train
from offline.steps.workspace import Workspace
from tests.offline.tastes import DAY, dataset_of_tastes

snapshot = dataset_of_tastes().snapshot(60 * DAY)
step = Workspace(Path(sys.argv[1])).run("popularity", partial(train, snapshot, PopularityConfig()))
print(step.reused)
"""


def test_an_edit_two_imports_away_runs_the_step_again_and_an_unrelated_one_does_not(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "step.py").write_text(STEP)
    environment = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}"}

    def reused() -> bool:
        command = [sys.executable, str(tmp_path / "step.py"), str(tmp_path / "work")]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout == "True\n"

    assert [reused(), reused()] == [False, True]
    for file, expected in (("offline/recall/als.py", True), ("recsys/ordering.py", False)):
        with (copy / file).open("a") as module:
            module.write("\nEDITED = True\n")
        assert reused() is expected, file
