"""Where the stack runs comes from the environment, and a wrong value is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cluster import require_reachable
from deploy.parts import oracle_url, own_oracles, token_of
from deploy.settings import Settings, SettingsError, load_settings
from services.oracle_scale import OracleScale


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "REDIS_URL",
        "RAY_ADDRESS",
        "REWARDMESH_RUN_ROOT",
        "REWARDMESH_SERVE_PORT",
        "REWARDMESH_ALLOWED_NETWORKS",
        "REWARDMESH_ORACLES",
    ):
        monkeypatch.delenv(name, raising=False)


def test_nothing_set_starts_everything() -> None:
    settings = load_settings()
    assert settings.redis_url is None
    assert settings.ray_address is None
    assert settings.run_root == Path("runs").absolute()


def test_the_names_that_others_use_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://buffer:6379")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    settings = load_settings()
    assert (settings.redis_url, settings.ray_address) == ("redis://buffer:6379", "head:6379")
    assert settings.data_dir == tmp_path / ".stack" / "buffer"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    assert load_settings().redis_url is None


@pytest.mark.parametrize("value", ["70000", "-1", "eight thousand"])
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("REWARDMESH_SERVE_PORT", value)
    with pytest.raises(SettingsError, match=rf"REWARDMESH_SERVE_PORT='{value}'.*change or unset it"):
        load_settings()


def test_a_token_is_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDMESH_ORACLE_TOKEN", "a token of sixteen characters and more")
    settings = load_settings()
    assert token_of(settings) == "a token of sixteen characters and more"
    assert "sixteen" not in repr(settings) + settings.model_dump_json()
    monkeypatch.setenv("REWARDMESH_ORACLE_TOKEN", "too short")
    with pytest.raises(SettingsError, match=r"variable REWARDMESH_ORACLE_TOKEN is not valid.*at least 16") as refused:
        load_settings()
    assert "too short" not in str(refused.value)


def test_all_interfaces_is_no_address_to_call() -> None:
    assert Settings(host="0.0.0.0").reachable_host == "127.0.0.1"
    assert Settings(host="10.0.0.7").reachable_host == "10.0.0.7"


@pytest.mark.parametrize(
    ("environment", "networks"),
    [
        ({}, "127.0.0.0/8, ::1/128"),
        ({"REWARDMESH_ALLOWED_NETWORKS": ""}, "127.0.0.0/8, ::1/128"),
        ({"REWARDMESH_HOST": "0.0.0.0"}, "127.0.0.0/8, ::1/128"),
        ({"REWARDMESH_HOST": "10.0.0.7"}, "10.0.0.7"),
        ({"REWARDMESH_HOST": "0.0.0.0", "REWARDMESH_ADVERTISED_HOST": "10.0.0.7"}, "10.0.0.7"),
        ({"REWARDMESH_ALLOWED_NETWORKS": "10.0.0.0/8"}, "10.0.0.0/8"),
    ],
)
def test_a_stack_may_call_its_own_oracles_and_what_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], networks: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings().outgoing_networks == networks


def test_a_network_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDMESH_ALLOWED_NETWORKS", "10.0.0.7/8")
    with pytest.raises(SettingsError, match=r"REWARDMESH_ALLOWED_NETWORKS='10\.0\.0\.7/8'.*host bits"):
        load_settings()


def test_files_for_tls_go_together_and_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_settings().serve_url(8000) == "http://127.0.0.1:8000"
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.touch()
    monkeypatch.setenv("REWARDMESH_TLS_CERT_FILE", str(certificate))
    with pytest.raises(SettingsError, match=r"only one of the files for TLS is set .*: set both, or none"):
        load_settings().serve_url(8000)
    monkeypatch.setenv("REWARDMESH_TLS_KEY_FILE", str(key))
    with pytest.raises(SettingsError, match=r"not there \(.*key\.pem\)"):
        load_settings().serve_url(8000)
    key.touch()
    assert load_settings().serve_url(8000) == "https://127.0.0.1:8000"
    assert load_settings().tls_files == (str(certificate), str(key))


def test_oracles_declare_what_a_replica_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = '{"object_count": {"num_gpus": 0.25, "resources": {"vision": 0.5}, "max_replicas": 4}}'
    monkeypatch.setenv("REWARDMESH_ORACLES", declared)
    settings = load_settings()
    assert settings.scale_of("object_count") == OracleScale(num_gpus=0.25, resources={"vision": 0.5}, max_replicas=4)
    assert settings.scale_of("ocr_spelling") == OracleScale(max_replicas=settings.max_oracle_replicas)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("object_count", "REWARDMESH_ORACLES='object_count'.*Expecting value"),
        ('{"nobody": {}}', "no such oracle of the stack: nobody; there are object_count, ocr_spelling"),
        ('{"object_count": {"gpus": 1}}', r"object_count\.gpus: Extra inputs"),
        ('{"object_count": {"num_gpus": 1.5}}', "a fraction of one GPU, or whole ones"),
        ('{"object_count": {"resources": {"GPU": 1}}}', "GPU is no custom resource; its amount is num_gpus"),
        ('{"object_count": {"resources": {"vision": 0}}}', r"resources\.vision: .*greater than 0"),
        ('{"object_count": {"memory_bytes": NaN}}', "NaN is not JSON"),
    ],
)
def test_a_declaration_that_cannot_be_met_is_named(monkeypatch: pytest.MonkeyPatch, declared: str, said: str) -> None:
    monkeypatch.setenv("REWARDMESH_ORACLES", declared)
    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_people_are_an_oracle_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "preference" not in own_oracles(load_settings())
    monkeypatch.setenv("REWARDMESH_PREFERENCE", "true")
    monkeypatch.setenv("REWARDMESH_PREFERENCE_QUEUE", '{"mode": "singles", "raters_per_comparison": 3}')
    settings = load_settings()
    assert own_oracles(settings)[-1] == "preference"
    assert oracle_url("http://127.0.0.1:8000", "preference") == "http://127.0.0.1:8000/preference/oracle"
    assert (settings.preference_queue.mode, settings.preference_queue.raters_per_comparison) == ("singles", 3)
    monkeypatch.setenv("REWARDMESH_PREFERENCE_QUEUE", '{"raters": 3}')
    with pytest.raises(SettingsError, match=r"REWARDMESH_PREFERENCE_QUEUE.*raters: Extra inputs"):
        load_settings()
    monkeypatch.delenv("REWARDMESH_PREFERENCE_QUEUE")
    monkeypatch.setenv("REWARDMESH_PREFERENCE_SECRET", "too short")
    with pytest.raises(SettingsError, match="REWARDMESH_PREFERENCE_SECRET") as refused:
        load_settings()
    assert "too short" not in str(refused.value)


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265"])
def test_a_cluster_is_joined_from_its_nodes(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SettingsError, match=r"RAY_ADDRESS=.*from one of its nodes.*`ray job submit`"):
        load_settings()


def test_several_nodes_must_reach_the_oracles() -> None:
    require_reachable(Settings(), {"10.0.0.7"})
    require_reachable(Settings(host="0.0.0.0", advertised_host="10.0.0.7"), {"10.0.0.7", "10.0.0.8"})
    require_reachable(Settings(host="0.0.0.0", advertised_host="head"), {"10.0.0.7", "10.0.0.8"})
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        with pytest.raises(SettingsError, match=r"2 nodes cannot call .*REWARDMESH_ADVERTISED_HOST"):
            require_reachable(Settings(host=host), {"10.0.0.7", "10.0.0.8"})
    with pytest.raises(SettingsError, match=r"known beforehand.*REWARDMESH_SERVE_PORT"):
        require_reachable(Settings(serve_port=0), {"10.0.0.7"})
