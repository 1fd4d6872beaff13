import importlib.metadata
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from sqlalchemy.engine import make_url

from cli.settings import Settings
from registry.artifacts.s3_location import S3Location

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
SECRETS = re.findall(r"^([A-Z0-9_]+)=$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
FILLED = {name: f"secret of {name.lower()}" for name in SECRETS}


def _compose(tmp_path: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program itself: the command that the package installs hides its exit code."""
    package = importlib.util.find_spec("compose")
    assert package is not None
    assert package.submodule_search_locations
    program = Path(package.submodule_search_locations[0]) / "docker-compose"
    # No .env of a developer, no settings of theirs: what is tested is the file alone.
    options = ["--env-file", "/dev/null", "--file", str(FILE)]
    return subprocess.run(
        [str(program), *options, *arguments],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def services(tmp_path) -> dict[str, dict]:
    result = _compose(tmp_path, FILLED, "config", "--format", "json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["services"]


def test_the_three_servers_and_their_setup_are_there(services):
    assert set(services) == {"postgres", "postgres-setup", "minio", "minio-setup", "mlflow"}


def test_every_server_has_a_health_check_and_the_rest_runs_once_before_its_user(services):
    awaited = {
        name
        for service in services.values()
        for name, condition in service.get("depends_on", {}).items()
        if condition["condition"] == "service_completed_successfully"
    }
    for name, service in services.items():
        if service["restart"] == "no":
            assert name in awaited, name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name
            assert not service["healthcheck"].get("disable"), name


def test_data_outlive_their_containers(services):
    mounts = {
        name: [(mount["type"], mount["source"], mount["target"]) for mount in service.get("volumes", [])]
        for name, service in services.items()
    }
    assert mounts.pop("postgres") == [("volume", "postgres-data", "/var/lib/postgresql")]
    assert mounts.pop("minio") == [("volume", "minio-data", "/data")]
    assert not any(mounts.values())


@pytest.mark.parametrize("missing", SECRETS)
@pytest.mark.parametrize("how", ["not set", "empty"])
def test_a_missing_secret_is_refused_and_named(tmp_path, missing, how):
    environment = {name: value for name, value in FILLED.items() if name != missing}
    if how == "empty":
        environment[missing] = ""
    result = _compose(tmp_path, environment, "config", "--quiet")
    assert result.returncode != 0
    assert missing in result.stderr
    assert ".env.example" in result.stderr


def test_no_secret_stands_in_a_committed_file():
    found = []
    for name, service in yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL", variable):
                found.append(variable)
                assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", str(value)), f"{name}: {variable}"
    assert len(found) >= len(SECRETS)
    assert "minioadmin" not in FILE.read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert not re.search(r"^[^#=]*(PASSWORD|SECRET)[^=]*=.+$", example, re.MULTILINE)


def test_the_example_lists_exactly_the_secrets_that_are_asked_for():
    asked = re.findall(r"\$\{([A-Z0-9_]+):\?", FILE.read_text(encoding="utf-8"))
    assert set(asked) == set(SECRETS)
    assert len(SECRETS) == 6


def test_each_service_gets_the_secrets_that_it_needs_and_no_others(services):
    given = {
        name: {secret for secret, value in FILLED.items() if value in service["environment"].values()}
        for name, service in services.items()
    }
    assert given == {
        "postgres": {"POSTGRES_PASSWORD"},
        "postgres-setup": {"POSTGRES_PASSWORD", "MLFLOW_DB_PASSWORD", "TRUNKLINE_DB_PASSWORD"},
        "minio": {"MINIO_ROOT_PASSWORD"},
        "minio-setup": {"MINIO_ROOT_PASSWORD", "MLFLOW_S3_SECRET", "TRUNKLINE_S3_SECRET"},
        "mlflow": {"MLFLOW_DB_PASSWORD", "MLFLOW_S3_SECRET"},
    }


def test_secrets_stand_in_no_command_line(services):
    for name, service in services.items():
        commands = json.dumps([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])
        assert not [value for value in FILLED.values() if value in commands], name


def test_ports_are_published_on_this_machine_only(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"postgres", "minio", "mlflow"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_what_the_head_says_to_set_leads_trunkline_to_these_servers(services):
    head = FILE.read_text(encoding="utf-8").partition("\nname:")[0]
    told = dict(re.findall(r"([A-Z][A-Z0-9_]+)=(\S+)", " ".join(re.findall(r"export (.+)", head))))
    settings = Settings.from_environment(told, ROOT)
    database = make_url(settings.database_url)
    assert (database.username, database.database, database.port) == ("trunkline", "trunkline", 5432)
    assert S3Location.parse(settings.artifact_root) == ("trunkline", "")
    assert settings.mlflow_uri.endswith(":5000")
    assert told["AWS_ENDPOINT_URL_S3"].endswith(":9000")
    assert {told["PGPASSWORD"], told["AWS_SECRET_ACCESS_KEY"]} == {"<TRUNKLINE_DB_PASSWORD>", "<TRUNKLINE_S3_SECRET>"}
    assert "give_bucket trunkline " in services["minio-setup"]["command"][0]


def test_ports_can_be_moved(tmp_path):
    moved = {"POSTGRES_PORT": "15432", "MINIO_PORT": "19000", "MLFLOW_PORT": "15000"}
    result = _compose(tmp_path, FILLED | moved, "config", "--format", "json")
    services = json.loads(result.stdout)["services"]
    assert {port["published"] for service in services.values() for port in service.get("ports", [])} == set(
        moved.values()
    )


def test_every_container_is_confined(services):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert "/tmp" in service["tmpfs"], name
        assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "devices"}, name


def test_images_are_pinned_to_a_version(services):
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert re.search(r"\d+\.\d+|\d{4}-\d{2}-\d{2}", tag), name
        assert "latest" not in tag, name


def test_the_mlflow_server_is_of_the_client_s_version(services):
    assert services["mlflow"]["image"] == f"ghcr.io/mlflow/mlflow:v{importlib.metadata.version('mlflow')}-full"


def test_the_scripts_of_the_setup_services_are_valid_shell(services):
    for name in ("postgres-setup", "minio-setup"):
        (script,) = services[name]["command"]
        result = subprocess.run(
            ["sh", "-n", "-c", script.replace("$$", "$")], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert not result.stderr
