"""Every channel and every stage is named on the pages and in the comments where a reader looks for it."""

from __future__ import annotations

import re
from pathlib import Path

from offline.publish.publish import REPORT_FOLDER, ROLE_FOLDERS
from recsys.bundle import FORMAT_VERSION, BundleStore, RerankPolicy
from recsys.channels import CHANNELS
from recsys.config import METRICS_PORTS, PORTS
from recsys.v1 import recommend_pb2
from tests.docs.pages import PAGES, ROOT
from tests.gateway.toy import policy
from tests.gateway.world import gateway


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def comment_of(proto: str, message: str) -> str:
    """The comment of the field `name` of a message."""
    return read(f"protos/recsys/v1/{proto}.proto").partition(f"message {message} {{")[2].partition("string name")[0]


def test_every_process_has_a_row_with_its_ports_and_its_image() -> None:
    """The one table of processes; other pages link to it."""
    page = read("docs/reference/operations.md")
    for role, port in PORTS.items():
        image = f"recall-{role}" if role in CHANNELS else role
        assert re.search(
            rf"^\| `{role}` \| `\w+` \| {port} \| {METRICS_PORTS[role]} \| `{image}` \|", page, re.MULTILINE
        )
    linked = ("architecture", "reference/configuration", "reference/metrics")
    assert [name for name in linked if "operations.md#processes-and-images" not in read(f"docs/{name}.md")] == []


def test_the_layout_of_a_bundle_has_its_folders_and_no_others(checkerboard_store: Path) -> None:
    layout = read("docs/reference/bundle.md").partition("```")[2].partition("```")[0]
    store = BundleStore(checkerboard_store)
    published = {path.name for path in store.open(store.release().current).folder.iterdir() if path.is_dir()}
    of_roles = {folder for folders in ROLE_FOLDERS.values() for folder in folders}
    shown = set(re.findall(r"^    [├└]── (\w+)/ ", layout, re.MULTILINE))
    assert published | {REPORT_FOLDER} <= shown
    assert shown <= published | of_roles | {REPORT_FOLDER}
    assert "exposure_bonus.npy" in layout


def test_the_changelog_says_which_format_bundles_have() -> None:
    assert f"the bundle format ({FORMAT_VERSION})." in " ".join(read("CHANGELOG.md").split())


def test_pages_publish_a_bundle_before_they_bring_the_servers_up() -> None:
    pages = [page for page in PAGES if re.search(r"compose\S* up\b", page.read_text(encoding="utf-8"))]
    before = {page.name: re.split(r"compose\S* up\b", page.read_text(encoding="utf-8"))[0] for page in pages}
    assert set(before) == {"README.md", "operations.md"}
    assert [name for name, text in before.items() if "run --rm offline" not in text] == []


async def test_every_stage_is_named_where_it_should(tmp_path: Path) -> None:
    asked = policy().model_copy(update={"rerank": RerankPolicy(diversity=1)})
    async with gateway(tmp_path, asked) as world:
        response = await world.stub.Recommend(recommend_pb2.RecommendRequest(user_id=4, debug=True))
    stages = {stage.name.partition(":")[0] for stage in response.stages}
    assert len(stages) == 6
    (labels,) = [line for line in read("docs/reference/metrics.md").splitlines() if line.startswith("- `stage` is ")]
    for stage in stages:
        suffix = ":<channel>" if stage == "recall" else ""
        assert f'"{stage}{suffix}"' in comment_of("types", "Stage")
        assert f"`{stage}{suffix}`" in labels


def test_every_stage_is_a_step_of_the_request() -> None:
    request = read("docs/architecture.md").partition("## A request")[2].partition("## ")[0]
    steps = [step.partition("**")[0] for step in request.split(". **")[1:]]
    assert steps == ["Parse and resolve", "Recall", "Merge", "Filter", "Blend", "Rank", "Post-ranking", "Answer"]
