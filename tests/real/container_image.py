"""Assemble the container image of the Dockerfile without Docker, and run its programs as containers.

Debian's own Python stands for the base image; umoci writes the layers and the configuration, runc runs what it unpacks.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import warmhook
from tests.support.image import INSTRUCTIONS, build_venv

__all__ = ["ContainerImage", "Mount", "build_image"]

_TAG: Final = "warmhook:test"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of the base."""
_PYTHON: Final = "/usr/bin/python3.11"
_PACKAGES: Final = "python3,ca-certificates,netbase,tzdata,passwd,base-passwd,base-files,dash,coreutils,apt"
"""What python:slim has: Debian with apt, whose C++ library gRPC needs."""
_LAST_STAGE: Final = INSTRUCTIONS[[number for number, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"][1] + 1 :]


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of this machine in a container; without `source` an empty folder in memory."""

    target: str
    source: Path | None = None
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """An image in the OCI layout `layout`, unpacked in `bundle`."""

    layout: Path
    bundle: Path

    @property
    def root(self) -> Path:
        """Its files."""
        return self.bundle / "rootfs"

    def configuration(self) -> dict[str, Any]:
        """The configuration of the image: `config` has `User`, `Cmd`, `Env`."""
        return self._blob(self.manifest()["config"]["digest"])

    def manifest(self) -> dict[str, Any]:
        """Its manifest."""
        index = json.loads((self.layout / "index.json").read_text())
        return self._blob(index["manifests"][-1]["digest"])

    def _blob(self, digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.layout / "blobs" / digest.replace(":", "/")).read_text())
        return found

    def command(
        self,
        folder: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        *,
        user: int,
        mounts: Sequence[Mount] = (),
        network: str = "",
    ) -> tuple[str, ...]:
        """The command that runs a container: no capabilities, no other privileges than its user's, read-only files.

        It has the variables of the image and `environ`, and not even HOME. `folder` is empty and becomes the bundle.
        `network` names a network namespace.
        """
        bundle = json.loads((self.bundle / "config.json").read_text())
        process = bundle["process"]
        # runc sets HOME if nobody else does.
        process["args"] = ["/usr/bin/env", "-u", "HOME", *arguments]
        process["env"] = [
            *self.configuration()["config"]["Env"],
            *(f"{name}={value}" for name, value in environ.items()),
        ]
        process |= {"terminal": False, "user": {"uid": user, "gid": user}, "capabilities": {}, "noNewPrivileges": True}
        bundle["root"] = {"path": str(self.root), "readonly": True}
        bundle["mounts"] += [_mount(mount) for mount in mounts]
        for namespace in bundle["linux"]["namespaces"]:
            if namespace["type"] == "network" and network:
                namespace["path"] = f"/var/run/netns/{network}"
        bundle["linux"]["namespaces"] = [each for each in bundle["linux"]["namespaces"] if each["type"] != "user"]
        for name in ("uidMappings", "gidMappings"):
            bundle["linux"].pop(name, None)
        (folder / "config.json").write_text(json.dumps(bundle))
        return ("runc", "--root", str(folder / "runc"), "run", "--bundle", str(folder), folder.name)


def _mount(mount: Mount) -> dict[str, Any]:
    if mount.source is None:
        return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]}
    options = ["rbind", "ro" if mount.read_only else "rw"]
    return {"destination": mount.target, "type": "bind", "source": str(mount.source), "options": options}


def build_image(folder: Path) -> ContainerImage:
    """The image, in `folder`: the base, then a layer for each instruction of the last stage that makes files.

    Raises `CalledProcessError`.
    """
    layout, bundle, base = folder / "layout", folder / "bundle", folder / "base.tar"
    _run("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--include={_PACKAGES}", "bookworm", str(base))
    image = f"{layout}:{_TAG.partition(':')[2]}"
    _run("umoci", "init", "--layout", str(layout))
    _run("umoci", "new", "--image", image)
    _run("umoci", "unpack", "--image", image, str(bundle))
    root = bundle / "rootfs"
    _run("tar", "--extract", "--file", str(base), "--directory", str(root), "--numeric-owner")
    base.unlink()
    _finish_base(root)
    _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
    options: list[str] = []
    for word, text in _LAST_STAGE:
        if word == "COPY":
            _copy_venv(folder, root)
        elif word == "RUN":
            _run("chroot", str(root), "/bin/sh", "-c", text)
        else:
            options += _options(word, text)
            continue
        _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
    # Last: a layer is written with the configuration that the image had when it was unpacked.
    _run("umoci", "config", "--image", image, *options)
    return ContainerImage(layout, bundle)


def _finish_base(root: Path) -> None:
    """What the packages do when they are installed, as far as the programs need it."""
    for name in ("passwd", "group"):
        shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    (root / "etc/ssl/certs/ca-certificates.crt").write_text("".join(path.read_text() for path in certificates))
    for name in ("python", "python3"):
        (root / "usr/bin" / name).unlink(missing_ok=True)
        (root / "usr/bin" / name).symlink_to(_PYTHON)


def _copy_venv(folder: Path, root: Path) -> None:
    """The venv of the first stage, with the interpreter of this base."""
    (building := folder / "build").mkdir()
    venv = build_venv(building)
    shutil.copytree(venv, root / "venv", symlinks=True)
    for path in (root / "venv" / "bin").iterdir():
        if path.is_symlink():
            path.unlink()
            path.symlink_to(_PYTHON)
        else:
            path.write_text(path.read_text().replace(str(venv), "/venv"))
    configuration = root / "venv" / "pyvenv.cfg"
    configuration.write_text(re.sub(r"(?m)^(home|executable|command) = .*\n", "", configuration.read_text()))
    configuration.write_text(f"home = {Path(_PYTHON).parent}\n{configuration.read_text()}")
    shutil.rmtree(building)


def _options(word: str, text: str) -> list[str]:
    """An instruction of the Dockerfile as options of `umoci config`."""
    if word == "ENV":
        pairs = [
            part.replace("$PATH", "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin")
            for part in shlex.split(text)
        ]
        return [f"--config.env={pair}" for pair in pairs]
    if word == "CMD":
        return [f"--config.cmd={part}" for part in json.loads(text)]
    if word == "USER":
        return [f"--config.user={text}"]
    if word == "LABEL":
        return [f"--config.label={part}" for part in shlex.split(text.replace("${VERSION}", warmhook.__version__))]
    if word == "ARG":
        return []
    raise AssertionError(f"the last stage of the Dockerfile has {word}, which nobody here knows")


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
