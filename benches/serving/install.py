"""Where peers and load tools come from: pinned, and kept in a cache outside the checkout.

Everything is fetched once into `~/.cache/mizzen-peers` (`MIZZEN_PEERS_CACHE` moves it) by the ordinary
clients: pip, apt (packages are unpacked, not installed, so no rights are needed) and git. What cannot be had
raises `Unavailable` with the reason, which the results then name.
"""

import os
import pathlib
import shutil
import subprocess
import sys

CACHE = pathlib.Path(os.environ.get("MIZZEN_PEERS_CACHE", "~/.cache/mizzen-peers")).expanduser()
TRITON_GIT = os.environ.get("MIZZEN_PEERS_GIT", "https://github.com/triton-inference-server/{name}.git")
DEBIAN = "http://deb.debian.org/debian"


class Unavailable(Exception):
    """A peer or a tool cannot be had on this machine; the message says why."""


def sh(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise Unavailable(f"`{' '.join(map(str, command[:3]))} …` failed: {last[0][:200]}")
    return done.stdout


def once(folder, stamp, make):
    """Makes a folder by `make(folder)` unless an earlier run did, from the same pins."""
    mark = folder.with_name(folder.name + ".made")
    if not (mark.exists() and mark.read_text() == stamp):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        mark.write_text(stamp)
    return folder


def venv(name, *requirements):
    """A virtual environment of its own for one peer; returns its Python."""
    def make(folder):
        sh([sys.executable, "-m", "venv", folder])
        sh([folder / "bin/pip", "install", "-q", "--disable-pip-version-check", "--no-input", *requirements])

    return once(CACHE / "venvs" / name, "\n".join(requirements), make) / "bin/python"


def wheel(name, requirement, platform=None):
    """One package's files, unpacked, without what it depends on; of a `platform` that pip thinks is not this one."""
    def make(folder):
        other = ["--platform", platform, "--only-binary=:all:"] if platform else []
        sh([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", *other,
            "--target", folder, requirement])

    return once(CACHE / name, requirement, make)


def debian(name, packages, suite=None):
    """Debian packages, unpacked into a folder. A `suite` other than this machine's gets apt lists of its own."""
    def make(folder):
        if not shutil.which("apt-get"):
            raise Unavailable("its Debian packages need `apt-get`")
        options = ["-oAPT::Sandbox::User=root"]
        if suite:
            state = CACHE / f"apt-{suite}"
            for part in ("lists/partial", "archives/partial"):
                (state / part).mkdir(parents=True, exist_ok=True)
            (state / "list.sources").write_text(
                f"Types: deb\nURIs: {DEBIAN}\nSuites: {suite}\nComponents: main\n"
                "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n")
            options += [f"-oDir::Etc::sourcelist={state}/list.sources", "-oDir::Etc::sourceparts=/nonexistent",
                        f"-oDir::State::Lists={state}/lists", f"-oDir::Cache={state}"]
            sh(["apt-get", *options, "update"])
        sh(["apt-get", *options, "download", *packages], cwd=folder)
        for package in folder.glob("*.deb"):
            sh(["dpkg", "-x", package, folder])

    return once(CACHE / name, f"{suite}: {' '.join(packages)}", make)


def source(name, branch):
    """A checkout of one of Triton's public repositories."""
    def make(folder):
        sh(["git", "clone", "-q", "--depth", "1", "--branch", branch, TRITON_GIT.format(name=name), folder])

    return once(CACHE / "src" / name, branch, make)


def tool(name):
    """A load tool of Debian's: its command and the environment it needs."""
    packages = {
        "wrk": ["wrk", "libluajit-5.1-2"],
        "h2load": ["nghttp2-client", "libnghttp2-14", "libev4", "libjansson4", "libjemalloc2"],
    }[name]
    if found := shutil.which(name):
        return found, {}
    root = debian(f"tools/{name}", packages)
    return str(root / "usr/bin" / name), {"LD_LIBRARY_PATH": str(next(root.glob("usr/lib/*-linux-gnu")))}
