"""What deploy/ holds, read as systemd and Docker read it."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
HOME = "/opt/neural-condense"
"""Where units and image expect the checkout."""


def unit_settings(path):
    """Return section -> key -> values, in order, of a systemd unit."""
    found, section = {}, None
    for raw in path.read_text().splitlines():
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
            continue
        key, _, value = line.partition("=")
        section.setdefault(key, []).append(value)
    return found


def exec_start(path, environ):
    """Return a unit's command as systemd splits it: a lone $NAME becomes the words of its value."""
    (line,) = unit_settings(path)["Service"]["ExecStart"]
    words = []
    for word in shlex.split(line):
        words += environ[word[1:]].split() if word.startswith("$") else [word]
    return words


def env_file():
    """Return the variables of the example, as a shell reads it."""
    lines = (DEPLOY / "condense.env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


@dataclass
class Step:
    """An instruction of a Dockerfile and what follows it, continuation lines joined."""

    name: str
    text: str


@dataclass
class Image:
    """What a Dockerfile says."""

    steps: list[Step] = field(default_factory=list)

    def of(self, name):
        return [step.text for step in self.steps if step.name == name]


def read_dockerfile(path=DEPLOY / "Dockerfile"):
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    image = Image()
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.strip().partition(" ")
        image.steps.append(Step(name, rest.strip()))
    return image


def env_pairs(text):
    return dict(word.split("=", 1) for word in shlex.split(text))


def ignored_by_default(path=DEPLOY / "Dockerfile.dockerignore"):
    """Return the paths that reach the build, from a file that ignores everything else."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]
