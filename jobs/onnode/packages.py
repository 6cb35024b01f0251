"""Installs what the requirements.txt of a source asks for, and keeps it on /shared for runs that ask for the same."""

import fcntl
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time
import urllib.parse

import kept
from addresses import shown
from programs import ProgramFailed, SetupFailed, TookTooLong, run

FIRST = "requirements.txt"
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar", ".tar.lzma")
BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
LONG = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-f": "--find-links", "-i": "--index-url"}
INDEXES = ("--index-url", "--extra-index-url", "--pypi-url")
# Options that decide by their own words alone.
PLAIN = (*INDEXES, "--no-index", "--pre", "--prefer-binary", "--require-hashes", "--no-binary", "--only-binary",
         "--trusted-host", "--use-feature")  # fmt: skip
ALONE = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")
NAMED = re.compile(r"[\w.-]+\s*(?:\[[^\]]*\])?\s*@\s*(.+)")
VERSIONED = re.compile(r"(?:git|hg|svn|bzr)\+")
# Settings of pip and uv, besides the variables that begin with their names.
SETTINGS = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf", "/etc/uv/uv.toml",
            "~/.config/uv/uv.toml")  # fmt: skip
NO_SOLUTION = re.compile(r"No solution found|ResolutionImpossible|conflicting dependencies")
DISTRIBUTION = re.compile(r"([\w.-]+)-([\w.+!]+)\.dist-info")
# What uv says as it goes on; the rest of it is about what it cannot do, and pip may.
GOES_ON = re.compile(r" [+~-] |\s*(?:Resolved|Prepared|Installed|Audited|Building|Built|Down\w+|Updat\w+) ")


def lacking(order):
    """Of what the run itself `needs`, as NAME==VERSION each, what the engine has not."""
    places = pathlib.Path(order["engine"], "lib")
    return [
        need for need in order.get("needs", ()) if not any(places.glob(f"python3*/site-packages/{need.split('==')[0]}"))
    ]


def had_by(engine):
    """What it has, as NAME==VERSION each."""
    folders = sorted(path.name for path in pathlib.Path(engine, "lib").glob("python3*/site-packages/*.dist-info"))
    return [f"{found[1]}=={found[2]}" for found in map(DISTRIBUTION.fullmatch, folders) if found]


def fetch(setup, source, needs=()):
    """The folder with the packages, or None where neither the source nor `needs` asks for one. Raises `SetupFailed`.

    While we run, and what we become, it is thrown away by nobody. Of `setup.order`: engine, shared, environment, and
    where given `packages_seconds`, and what `kept` reads. Of `setup.facts`: commit.
    """
    if not needs and not (source / FIRST).is_file():
        return None
    wanted = Requirements(source, needs)
    if not wanted.words:
        return None
    setup.know()  # where it is: what follows may take long
    engine = pathlib.Path(setup.order["engine"])
    seconds = setup.order.get("packages_seconds", 1800)
    installer = Installer(setup, source, wanted, seconds)
    if wanted.floats:
        installer.install(setup.folder / "packages")
        setup.say(f"They are not kept for the next run: {wanted.floats}")
        return setup.folder / "packages"
    name = key(wanted, engine, source, setup.facts["commit"])
    store = kept.Store(pathlib.Path(setup.order["shared"], ".packages"), setup.order, installer.until, setup.say)
    while True:
        # Left open, and inherited by what we become: the run has it for its life.
        lock = store.take(name, fcntl.LOCK_SH, wanted.title)
        if store.is_kept(name):
            store.use(name)
            os.set_inheritable(lock, True)
            return store.folder / name
        os.close(lock)
        with store.locked(name, wanted.title) as lock:
            if not store.is_kept(name):
                draft = store.folder / f"{name}.{setup.folder.name}"
                installer.install(draft, lock)
                store.keep(name, draft)
            store.make_room()


def key(wanted, engine, source, commit):
    """A name for everything that decides what is installed."""
    python = os.path.realpath(engine / "bin" / "python")
    about = os.stat(python)
    home = os.path.expanduser("~")
    files = [*(name.replace("~", home) for name in SETTINGS), os.environ.get("PIP_CONFIG_FILE", ""),
             os.environ.get("UV_CONFIG_FILE", ""), engine / "pip.conf", engine / "pyvenv.cfg",
             source / "uv.toml"]  # fmt: skip
    contents = [content_of(file) for file in files]
    project = content_of(source / "pyproject.toml")
    variables = {*wanted.variables, *(name for name in os.environ if name.startswith(("PIP_", "UV_")))}
    decides = [
        wanted.words,
        commit if wanted.is_local else "",
        [(name, os.environ.get(name)) for name in sorted(variables)],
        contents,
        project if "tool.uv" in project else "",
        had_by(engine),
        [str(engine), python, about.st_size, about.st_mtime_ns],
        [os.uname().machine, os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""],
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:24]


def content_of(file):
    try:
        return pathlib.Path(file).read_text(errors="surrogateescape")
    except (OSError, ValueError):
        return ""


class Requirements:
    """What requirements.txt asks for, with the files that it names, as pip reads them. Raises `SetupFailed`.

    `words`: all that they say; `is_local`: some of it is in the source itself; `floats`: why the same words may mean
    something else tomorrow, or ""; `lines`: the same as one file, in which nothing is editable; `hosts`: who is asked;
    `title`: what they are. What a notebook `needs` is among it, where they do not name it themselves.
    """

    def __init__(self, source, needs=()):
        self.source = pathlib.Path(os.path.realpath(source))
        self.words, self.lines, self.hosts = [], [], []
        self.variables = set()
        self.is_local = self.is_rewritten = False
        self.floats = ""
        self.title = f"the packages of {FIRST}"
        if (self.source / FIRST).is_file():
            self.read(self.source / FIRST, [], is_constraint=False)
        named = {re.split(r"[^\w.-]", line)[0].lower() for line in self.lines}
        if missing := [need for need in needs if need.split("==")[0] not in named]:
            words = f"what notebooks need ({', '.join(missing)})"
            self.title = f"{self.title} and {words}" if self.words else words
            self.words += missing
            self.lines += missing
            self.is_rewritten = True

    def read(self, file, above, is_constraint):
        if os.path.realpath(file) in map(os.path.realpath, above):
            raise SetupFailed(f"{self.name(file)} names itself, by way of {self.name(above[-1])}.")
        if not file.is_file():
            raise SetupFailed(
                f"{self.name(above[-1])} names {self.name(file)}, which is not there.",
                "",
                "Add the file to the repository, or take the line out.",
            )
        lines = [] if is_constraint else self.lines
        for line in logical_lines(decoded(file, self.name(file))):
            self.variables.update(VARIABLE.findall(line))
            line = VARIABLE.sub(lambda found: os.environ.get(found.group(1), found.group()), line)
            self.words.append(line)
            if line.startswith("-"):
                for option, value in self.options(line, file):
                    self.option(option, value, file, above, is_constraint, lines)
            else:
                lines.append(line)
                self.requirement(line, file)

    def options(self, line, file):
        """[(option, value)] of a line; the value is "" where there is none."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise SetupFailed(f"{self.name(file)} has a line that cannot be read: {shown(line)}", str(error)) from error
        found = []
        while words:
            option = words.pop(0)
            if option.startswith("--"):
                option, _, value = option.partition("=")
            else:
                option, value = LONG.get(option[:2], option[:2]), option[2:].removeprefix("=")
            if not value and words and option not in ALONE:
                value = words.pop(0)
            found.append((option, value))
        return found

    def option(self, option, value, file, above, is_constraint, lines):
        if option in ("--requirement", "--constraint"):
            place = urllib.parse.unquote(re.sub("^file:(//)?", "", value))
            if "://" in place:
                self.changes(value)
            else:
                is_constraint = is_constraint or option == "--constraint"
                self.read(pathlib.Path(os.path.normpath(file.parent / place)), [*above, file], is_constraint)
                if not is_constraint:
                    return
                value = str(file.parent / place)
        elif option == "--editable":
            # An editable one would be in this run's folder, and the next run finds nothing there.
            self.is_rewritten = True
            lines.append(value)
            self.requirement(value, file)
            return
        elif option == "--find-links":
            if "://" not in value:
                value = str(self.local(value, file))
        elif option in INDEXES:
            self.hosts.append(urllib.parse.urlsplit(value).hostname or value)
        elif option not in PLAIN:
            self.changes(option)
        lines.append(f"{option} {value}".rstrip())

    def requirement(self, text, file):
        named = NAMED.fullmatch(text)
        place = (named.group(1) if named else text).split()[0]
        if VERSIONED.match(place):
            self.hosts.append(urllib.parse.urlsplit(place).hostname)
            if not re.search("@[0-9a-f]{40}$", place.partition("#")[0]):
                self.changes(place)
        elif place.startswith("file:"):
            self.local(urllib.parse.unquote(re.sub("^file:(//)?", "", place.partition("#")[0])), file)
        elif "://" in place:
            self.hosts.append(urllib.parse.urlsplit(place).hostname)
            if not re.search("#.*sha(256|384|512)=|--hash", text):
                self.changes(place)
        elif place.startswith(".") or "/" in place or place.lower().endswith(ARCHIVES):
            self.local(place.partition("[")[0].rstrip(";"), file)

    def local(self, place, file):
        """Where it is: as pip, beside the file that names it, or from the source's top."""
        found = next((path for path in (self.source / place, file.parent / place) if path.exists()), None)
        real = pathlib.Path(os.path.realpath(found or self.source / place))
        if real == self.source or self.source in real.parents:
            self.is_local = True
        elif real.is_file():
            self.words.append(hashlib.sha256(real.read_bytes()).hexdigest())
        else:
            self.changes(place)
        return found or place

    def changes(self, what):
        self.floats = self.floats or f"{shown(what)} may be another one by then"

    def name(self, file):
        try:
            return shown(str(file.relative_to(self.source)))
        except ValueError:
            return shown(str(file))


def decoded(file, name):
    """The text of a requirements file, by the rules that pip has."""
    data = file.read_bytes()
    coding = "utf-8"
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            coding = "utf-8-sig" if encoding == "utf-8" else encoding
            break
    else:
        if said := CODING.search(b"\n".join(data.split(b"\n")[:2])):
            coding = said.group(1).decode()
    try:
        return data.decode(coding, "surrogateescape" if coding == "utf-8" else "strict")
    except (UnicodeDecodeError, LookupError) as error:
        raise SetupFailed(f"{name} is not text in {shown(coding)}.", str(error), "Save it as UTF-8.") from error


def logical_lines(text):
    """Without comments; a line that ends in a backslash goes on in the next one."""
    begun = ""
    for line in [*text.splitlines(), ""]:
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun += line[:-1]
            continue
        whole = re.sub(r"(^|\s+)#.*$", "", begun + line).strip()
        begun = ""
        if whole:
            yield whole


class Installer:
    """uv, which is quick and reads none of pip's settings; where it cannot, pip."""

    def __init__(self, setup, source, wanted, seconds):
        self.setup = setup
        self.source = source
        self.wanted = wanted
        self.title = f"{wanted.title[0].upper()}{wanted.title[1:]}"  # at the beginning of a sentence
        self.seconds = seconds
        self.until = time.monotonic() + seconds
        # They come before the engine's own, which others of it may not bear: so the same ones, where that can be.
        # With hashes nothing is taken that has none.
        hashed = any("--require-hashes" in line or "--hash" in line for line in wanted.words)
        self.engine_has = [] if hashed else had_by(setup.order["engine"])
        self.python = str(pathlib.Path(setup.order["engine"], "bin", "python"))

    def install(self, folder, *holds):
        """Into the folder. Raises `SetupFailed`, and leaves nothing there then."""
        self.setup.know(phase="packages")
        self.setup.say(f"Installing {self.wanted.title}")
        began = time.monotonic()
        try:
            if not self.with_uv(folder, holds):
                self.with_pip(folder, holds)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.setup.say(f"Installed in {time.monotonic() - began:.1f} s")

    def with_uv(self, folder, holds):
        """Whether it could."""
        self.uv_said = ""
        if shutil.which("uv") is None:
            return False
        try:
            self.run(["uv", "pip", "install", "--python", self.python, "--link-mode", "copy"], folder, holds,
                     lambda line: self.setup.say(line.strip()) if GOES_ON.match(line) else None)  # fmt: skip
        except ProgramFailed as failure:
            self.uv_said = failure.said
            return False
        return True

    def with_pip(self, folder, holds):
        pip = [self.python, "-m", "pip"]
        if not answers(pip):
            pip = ["python3", "-m", "pip", "--python", self.python]
        message = f"{self.title} could not be installed."
        advice = f"Read the end of the output, and mend {FIRST}."
        if not (self.source / FIRST).is_file():
            advice = "Have the head node reach its package index, or take an engine version that has them."
        if not answers(pip[:3]):
            raise SetupFailed(message, self.uv_said or "There is neither uv nor pip on the head node.", advice)
        quiet = ["--disable-pip-version-check", "--no-input", "--no-color", "--progress-bar", "off"]
        try:
            self.run([*pip, "install", *quiet], folder, holds, self.setup.say)
        except ProgramFailed as failure:
            raise SetupFailed(message, failure.said, advice) from failure

    def run(self, argv, folder, holds, tell):
        """Together with what the engine has, or else without it. Raises `ProgramFailed`."""
        if not self.engine_has:
            self.call(argv, folder, holds, tell)
            return
        beside = self.setup.folder / "engine.txt"
        beside.write_text("".join(f"{line}\n" for line in self.engine_has))
        try:
            self.call([*argv, "--constraint", str(beside)], folder, holds, tell)
        except ProgramFailed as failure:
            if not NO_SOLUTION.search(failure.said):
                raise
            self.call(argv, folder, holds, tell)
            self.setup.say("Some are of other versions than the engine has them: its own packages may not bear that")

    def call(self, argv, folder, holds, tell):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        file = self.source / FIRST
        if self.wanted.is_rewritten:
            file = self.setup.folder / FIRST
            file.write_text("".join(f"{line}\n" for line in self.wanted.lines), errors="surrogateescape")
        try:
            # In the source: that is what "." and other paths begin from.
            run([*argv, "--target", str(folder), "-r", str(file)], env={**os.environ, "NO_COLOR": "1"},
                cwd=self.source, until=self.until, tell=tell, merged=True, holds=holds)  # fmt: skip
        except TookTooLong as error:
            hosts = ", ".join(dict.fromkeys(filter(None, self.wanted.hosts))) or index_of_settings()
            raise SetupFailed(
                f"{self.title} were waited for {self.seconds:.0f} s, from {hosts}.",
                error.said,
                "Check that it answers; many packages take longer the first time.",
            ) from error


def index_of_settings():
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return urllib.parse.urlsplit(os.environ[name]).hostname or "the package index"
    return "the package index"


def answers(pip):
    try:
        done = subprocess.run([*pip, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
