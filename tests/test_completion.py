"""stella completion: what a shell offers at the cursor, for the three shells alike (zsh and fish in tests/audit)."""

from __future__ import annotations

import subprocess

import pytest

import stella as stella_module

# line before the cursor, words that must be offered, words that must not
CASES = {
    "commands": ("stella ", ["export", "doctor", "completion"], ["profile", "FILES"]),
    "groups": ("stella export ", ["profile", "run", "download", "verify"], ["doctor", "ls"]),
    "commands-of-a-group": ("stella export run ", ["submit", "ls", "watch"], ["profile"]),
    "begun-command": ("stella export run su", ["submit"], ["show", "ls"]),
    "global-option-between": ("stella --tenant acme export --trace run ", ["submit"], ["export"]),
    "option-value-like-a-command": ("stella --tenant export ", ["export"], ["run"]),
    "options": ("stella export run ls --", ["--status", "--tail", "--format", "--help"], ["--key"]),
    "begun-option": ("stella export verify --ma", ["--manifest", "--max-age"], ["--key"]),
    "option-after-a-positional": ("stella export run show run-1 --q", ["--query"], []),
    "version-only-at-the-top": ("stella --v", ["--version"], []),
    "choices-of-a-global-option": ("stella export profile list --format ", ["table", "json", "yaml"], ["raw"]),
    "choices-before-the-command": ("stella --format ", ["table", "json", "yaml"], ["export"]),
    "status": ("stella export run ls --status ", ["active", "succeeded", "expired"], ["--tail"]),
    "begun-status": ("stella export run ls --status p", ["pending"], ["active"]),
    "kind": ("stella export profile list --kind ", ["json", "trivy", "mirror"], []),
    "verifier": ("stella export verify run-1 --verifier ", ["auto", "cosign", "openssl", "builtin"], []),
    "shell": ("stella completion ", ["bash", "zsh", "fish"], ["export"]),
    "id-is-not-ours-to-know": ("stella export run show ", [], ["ls", "a b.json", "sub"]),
    "value-is-not-ours-to-know": ("stella export run ls --tail ", [], ["--status", "sub"]),
    "files": ("stella export verify --key ", ["sub", "key.pub"], ["--key"]),
    "begun-file": ("stella export verify --key ke", ["key.pub"], ["sub"]),
    "files-of-a-global-option": ("stella export run ls --output ", ["sub", "key.pub"], []),
    "file-in-a-folder": ("stella export verify --manifest sub/", ["export.json"], ["key.pub"]),
}
EQUALS = {
    "equals-sign": ("stella export run ls --status=", ["active", "pending"], []),
    "equals-sign-begun": ("stella export run ls --status=p", ["pending"], ["active"]),
    "equals-sign-global": ("stella --format=", ["table", "yaml"], []),
    "equals-sign-before": ("stella --format=json export run ls --sta", ["--status"], []),
    "equals-sign-file": ("stella export verify --key=ke", ["key.pub"], ["sub"]),
}


def make_files(folder):
    (folder / "sub").mkdir()
    for name in ("key.pub", "a b.json", "sub/export.json"):
        (folder / name).write_text("")


def offered_by_bash(script, line, folder, breaks=True):
    """What bash would offer: the words as readline cuts them, COMP_WORDBREAKS with or without `=`."""
    words = (line.replace("=", " = ") if breaks else line).split()
    if line[-1] == " ":
        words.append("")
    command = f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _stella; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", command, "bash", *words], cwd=folder, capture_output=True, text=True,
                          timeout=60, check=True)
    return done.stdout.splitlines()


def judge(offered, wanted, unwanted):
    """Offers may carry the option before `=`, the folder, a `/` or a blank after."""
    bare = {offer.strip().rstrip("/").rpartition("=")[2].rpartition("/")[2] for offer in offered} - {""}
    assert set(wanted) <= bare, offered
    assert not set(unwanted) & bare, offered
    assert wanted or not bare, offered


@pytest.fixture
def script(cli):
    return cli("completion", "bash", whole=True).out


@pytest.mark.parametrize(("line", "wanted", "unwanted"), [*CASES.values(), *EQUALS.values()], ids=[*CASES, *EQUALS])
def test_bash(script, tmp_path, line, wanted, unwanted):
    make_files(tmp_path)
    judge(offered_by_bash(script, line, tmp_path), wanted, unwanted)


@pytest.mark.parametrize(("line", "wanted", "unwanted"), EQUALS.values(), ids=EQUALS)
def test_bash_that_does_not_cut_at_the_equals_sign(script, tmp_path, line, wanted, unwanted):
    make_files(tmp_path)
    offered = offered_by_bash(script, line, tmp_path, breaks=False)
    judge(offered, wanted, unwanted)
    if line.split()[-1].endswith("="):
        assert all(offer.startswith(line.split()[-1]) for offer in offered), offered


def test_a_file_with_a_blank_is_one_offer(script, tmp_path):
    make_files(tmp_path)
    assert "a b.json" in offered_by_bash(script, "stella export verify --key a", tmp_path)


def test_every_command_and_option_is_offered_by_every_shell(cli):
    for shell in stella_module.COMPLETIONS:
        text = cli("completion", shell, whole=True).out
        for command in stella_module.COMMANDS:
            assert " ".join(command.words) in text
            for arg in command.args:
                if arg.name[0] == "-":
                    assert arg.name[2:] in text
                for choice in arg.choices:
                    assert choice in text


def test_no_option_takes_a_value_in_one_command_and_none_in_another():
    """The walk over the words before the cursor rests on it."""
    rows = [arg for command in stella_module.COMMANDS for arg in command.args] + list(stella_module.GLOBALS)
    valued = set(stella_module.completion_valued())
    for arg in rows:
        if arg.name[0] == "-":
            assert (arg.name in valued) == (arg.kind not in ("flag", "switch")), arg.name


def test_no_foreign_character_gets_into_a_script():
    """Names and choices stand unquoted in the bash and zsh scripts."""
    for _, below, args in stella_module.completion_nodes():
        for text in [*below, *(arg.name for arg in args), *(choice for arg in args for choice in arg.choices)]:
            assert text.replace("-", "").replace("_", "").isalnum(), text


def test_unknown_shell_is_usage(cli):
    done = cli("completion", "powershell", whole=True)
    assert (done.code, done.out) == (2, "")
    assert "bash" in done.err


def test_script_to_a_file(cli, tmp_path):
    done = cli("completion", "zsh", "--output", tmp_path / "_stella", whole=True)
    assert (done.code, done.out) == (0, "")
    assert (tmp_path / "_stella").read_text().startswith("#compdef stella\n")


def test_completion_needs_no_configuration(cli):
    assert cli("completion", "fish", whole=True, env={"STELLA_PROFILE": "missing"}).code == 0
