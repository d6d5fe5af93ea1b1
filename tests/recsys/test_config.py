from __future__ import annotations

from pathlib import Path

import pytest

from recsys.config import METRICS_PORTS, PORTS, ServerConfig, metrics_port_field, port_field
from recsys.errors import CannotStart


class RankLikeConfig(ServerConfig):
    port: int = port_field(PORTS["rank"])
    metrics_port: int = metrics_port_field(METRICS_PORTS["rank"])


def parse(*arguments: str) -> RankLikeConfig:
    return RankLikeConfig.from_arguments(arguments, "prog")


def test_ports_come_in_order_and_keep_the_documented_numbers() -> None:
    assert list(PORTS)[:5] == list(METRICS_PORTS)[:5] == ["gateway", "popularity", "itemcf", "vector", "rank"]
    assert list(PORTS.values()) == sorted(set(PORTS.values()))
    assert list(PORTS.values())[:7] == [50050, 50051, 50052, 50053, 50054, 50055, 50056]
    assert list(METRICS_PORTS.values())[:7] == [9150, 9151, 9152, 9153, 9154, 9155, 9156]


def test_defaults_listen_on_this_machine_only() -> None:
    config = parse()
    assert (config.host, config.port, config.metrics_port) == ("127.0.0.1", 50054, 9154)


def test_flags_go_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rank.toml"
    file.write_text('port = 1\nmetrics_port = 2\nin_flight_limit = 3\nlog_format = "text"\n')
    monkeypatch.setenv("RECSYS_METRICS_PORT", "20")
    monkeypatch.setenv("RECSYS_IN_FLIGHT_LIMIT", "30")
    config = parse("--config", str(file), "--in-flight-limit", "300")
    found = (config.port, config.metrics_port, config.in_flight_limit, config.log_format, config.poll_seconds)
    assert found == (1, 20, 300, "text", 1.0)


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rank.toml"
    file.write_text("port = 7\n")
    monkeypatch.setenv("RECSYS_CONFIG", str(file))
    assert parse().port == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; see --help"),
        (["--por", "1"], "unrecognized arguments: --por 1; see --help"),
        (["--port", "x"], "port: Input should be a valid integer.*found 'x'; set it with --port"),
        (["--port", "70000"], "port: Input should be less than or equal to 65535, found '70000'"),
        (["--log-format", "xml"], "log.format: .*'json' or 'text'"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", "absent.toml"], "absent.toml: cannot be read as TOML"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(CannotStart, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_of_the_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "rank.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(CannotStart, match=r"rank\.toml: unknown key 'prot'"):
        parse("--config", str(file))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rank.toml"
    file.write_text("port = \n")
    with pytest.raises(CannotStart, match=r"rank\.toml: cannot be read as TOML"):
        parse("--config", str(file))


def test_an_unknown_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_PROT", "1")
    with pytest.raises(CannotStart, match=r"RECSYS_PROT: no such setting; known are .*RECSYS_PORT"):
        parse()


def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, setting in RankLikeConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert setting.description
        assert setting.description.split(";")[0] in shown
