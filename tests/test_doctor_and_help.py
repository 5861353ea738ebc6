"""What a newcomer sees first."""

import json


def test_doctor_says_what_is_there_and_how_to_get_what_is_not(mizzen, tmp_path):
    there = json.loads(mizzen("doctor", "-o", "json", env={"MIZZEN_DATA_DIR": str(tmp_path)}).stdout)
    found = {entry["what"]: entry for entry in there}
    assert found["engine onnxruntime"]["found"], found["engine onnxruntime"]
    assert found["engine candle"]["found"]
    missing = mizzen("doctor", "--onnxruntime", "/nowhere/lib.so", env={"MIZZEN_DATA_DIR": str(tmp_path)}).stdout
    assert "missing  engine onnxruntime" in missing and "/nowhere/lib.so" in missing


def test_help_teaches_every_command(mizzen):
    top = mizzen("--help").stdout
    for command in ("serve", "up", "tune", "run", "get", "logs", "delete", "models", "bench", "operator", "doctor"):
        assert command in top
        assert "Usage:" in mizzen(command, "--help").stdout


def test_wrong_flags_and_files_are_told_apart(mizzen, tmp_path):
    assert mizzen("tune", check=False).returncode == 2
    absent = mizzen("tune", tmp_path / "absent.yaml", env={"MIZZEN_DATA_DIR": str(tmp_path)}, check=False)
    assert absent.returncode == 3 and "absent.yaml" in absent.stderr
    config = tmp_path / "mizzen.toml"
    config.write_text("[serve]\nhttp-prot = 1\n")
    wrong = mizzen("--config", config, "serve", "--model-repository", tmp_path, check=False)
    assert wrong.returncode == 2 and "http-prot" in wrong.stderr and "line 2" in wrong.stderr
