"""Files of the user, of other agents, of the host and of the agent's own next run."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct

import pytest

from tests.hostile_agents.harness import BUBBLEWRAP, CANARIES, LANDLOCK, RLIMITS, Attack, each, outcome

NOT_THERE, DENIED, READ_ONLY = "ENOENT", "EACCES", "EROFS"
READING = (
    Attack("read_key", NOT_THERE, DENIED, daily=True),
    Attack("list_home", NOT_THERE, DENIED),
    Attack("search_for_secrets", NOT_THERE, NOT_THERE),
    Attack("read_neighbour", NOT_THERE, DENIED),
    Attack("import_neighbour", NOT_THERE, DENIED),
    Attack("read_store", NOT_THERE, DENIED, daily=True),
    Attack("read_shadow", NOT_THERE, DENIED, root=True),
    Attack("list_home_of_root", NOT_THERE, DENIED, root=True),
    Attack("read_host_temporary", NOT_THERE, DENIED, daily=True),
    Attack("read_other_scratch", NOT_THERE, DENIED),
    Attack("read_through_symlink", NOT_THERE, DENIED, daily=True),
    Attack("read_through_hardlink", "ENOENT EXDEV", "EXDEV EACCES"),
    Attack("read_through_canarys_root", NOT_THERE, DENIED),
    Attack("read_through_own_root", NOT_THERE, DENIED, daily=True),
    Attack("read_through_first_process", "ENOENT EACCES", DENIED, free=""),
    Attack("list_parents_directory", "ENOENT EACCES", DENIED),
    Attack("open_parents_descriptors", "ENOENT EACCES", "ENOENT EACCES", daily=True),
    Attack("read_through_map_files", NOT_THERE, "EACCES EPERM", free=""),
)
CHANGING = (
    # What Landlock's filter answers with success, it does not do: the host is looked at.
    Attack("change_mode", NOT_THERE, "done", daily=True),
    Attack("change_times", NOT_THERE, "done"),
    Attack("change_owner", NOT_THERE, "done", root=True),
    Attack("change_attributes", NOT_THERE, "ENOTSUP EOPNOTSUPP", free="done ENOTSUP EOPNOTSUPP"),
    Attack("rename_there", "ENOENT EROFS", DENIED),
    Attack("take_away", "ENOENT EXDEV EROFS", "EXDEV EACCES", daily=True),
    Attack("exchange", "ENOENT EXDEV EROFS", "EXDEV EACCES"),
    Attack("delete", "ENOENT EROFS", DENIED, daily=True),
    Attack("make_directory", READ_ONLY, DENIED),
    Attack("make_link_there", "ENOENT EROFS", DENIED),
    Attack("truncate", NOT_THERE, DENIED),
    Attack("append_to_profile", READ_ONLY, DENIED),
    Attack("write_grant", "ENOENT EROFS", DENIED, daily=True),
    Attack("replace_current_version", "ENOENT EROFS", DENIED),
    Attack("write_host_temporary", "done", DENIED, daily=True),  # bubblewrap: into a /tmp of its own
    Attack("write_shared_memory", "done", DENIED),
    Attack("write_record_of_run", READ_ONLY, DENIED),
)
NEXT_RUN = (
    Attack("write_code", READ_ONLY, DENIED, daily=True),
    Attack("make_code_writable", READ_ONLY, DENIED),
    Attack("replace_code", "EXDEV EROFS", "EXDEV EACCES"),
    Attack("write_through_hardlink_to_code", "EXDEV", "EXDEV EACCES"),
    Attack("plant_bytecode", READ_ONLY, DENIED, daily=True),
)
ENVIRONMENT = (
    Attack("plant_startup_file", READ_ONLY, DENIED),
    Attack("replace_interpreter", READ_ONLY, DENIED),
    Attack("write_interpreters_library", "EROFS EACCES", DENIED, root=True),
    Attack("map_code_for_writing", DENIED, DENIED, free=DENIED),
    Attack("lease_on_code", "EPERM", "EPERM"),
    Attack("lock_code", "EAGAIN", "EAGAIN", free="EAGAIN"),
)
KERNEL = (
    Attack("name_handle", "EPERM", "EPERM", free="done EOPNOTSUPP"),
    Attack("open_handle", "EPERM", "EPERM", free="", daily=True),
    Attack("make_device", "EPERM", "EPERM EACCES", free=""),
    Attack("open_devices", NOT_THERE, NOT_THERE, root=True),
    Attack("change_root", "EPERM", "EPERM", root=True),
    Attack("new_namespace", "EPERM", "EPERM", free=""),
    Attack("enter_namespace", NOT_THERE, DENIED, free=""),
    Attack("uring", "ENOSYS", "ENOSYS", free=""),
    Attack("watch_home", NOT_THERE, DENIED),
    Attack("write_kernel_settings", "EROFS EACCES", DENIED, free=""),
    Attack("write_cgroup", NOT_THERE, NOT_THERE, free=""),
    Attack("become_another", "EPERM EINVAL", "EPERM", root=True),
    Attack("set_uid_program", "EPERM", "EPERM", daily=True),
    Attack("set_uid_at_birth", "EPERM", "EPERM"),
)
# Unconfined, these would change this machine for others.
MOUNTS = (
    Attack("mount_over", "EPERM", "EPERM", daily=True),
    Attack("move_root", "EPERM", "EPERM"),
    Attack("detach_mount", "EPERM", "EPERM"),
    Attack("unlock_mount", "EPERM", "EPERM"),
)


def handle_of(path):
    """What names a file to the kernel, past all directories; empty where the file system has no such thing."""
    room = ctypes.create_string_buffer(struct.pack("Ii128x", 128, 0))
    mount = ctypes.c_int()
    failed = ctypes.CDLL(None).name_to_handle_at(-100, path.encode(), room, ctypes.byref(mount), 0)
    return "" if failed else room.raw.hex()


@pytest.fixture
def loot(host, tmp_path_factory):
    """Files of others in the places where everybody has files, and what else an attack aims at."""
    path = f"/tmp/hostile-loot-{os.urandom(6).hex()}"
    base = os.path.join(host.world.temporary, f"agenthub-{host.world.uid}")
    other = os.path.join(base, "0123456789ab")
    host.world.directory(os.path.relpath(base, host.world.path), 0o700)
    host.world.directory(os.path.relpath(other, host.world.path), 0o700)
    for place in (path, f"{other}/loot"):
        with open(place, "w") as file:
            file.write("kept-secret-loot")
        os.chmod(place, 0o644)
    held = os.open(other, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as a run that goes on
    real_home = host.facts["real_home"]
    names = os.listdir(real_home) if os.access(real_home, os.R_OK) else []
    disk = os.stat("/").st_dev
    host.facts |= {
        "loot": path,
        "real_home_names": names,
        "work_name": os.path.basename(host.world.work) + "-file",
        "handle": handle_of(host.home + "/.ssh/id_ed25519") or "00" * 8,
        "disk": [os.major(disk), os.minor(disk)],
    }
    with open(f"{host.world.work}/{host.facts['work_name']}", "w"):
        pass
    yield host
    with open(path) as file:
        assert file.read() == "kept-secret-loot"
    os.unlink(path)
    os.unlink(f"{other}/loot")
    os.rmdir(other)
    os.close(held)


@each(READING)
def test_nothing_of_others_can_be_read(loot, attack):
    envelope = loot.attack("files", attack)
    if loot.tier != RLIMITS:
        assert "kept-secret-" not in str(envelope.get("result"))


@each(CHANGING + ENVIRONMENT + KERNEL)
def test_nothing_of_the_host_is_changed(loot, attack):
    loot.attack("files", attack)


@each(MOUNTS)
def test_mounts_stay_as_they_are(loot, attack):
    if loot.tier == RLIMITS:
        pytest.skip("nothing is promised")
    loot.attack("files", attack)


@each(NEXT_RUN)
def test_the_next_run_is_of_the_same_code(host, attack):
    host.attack("files", attack)
    said = host.run("files", "speak", {})["result"]
    assert said == "as it was" or host.tier == RLIMITS


def test_without_a_sandbox_the_next_run_is_another(host):
    """Else the refusals above would prove nothing."""
    if host.tier != RLIMITS:
        pytest.skip("confined")
    host.forgive()
    for method in ("write_code", "plant_bytecode"):
        assert outcome(host.run("files", method)) == "done"
        assert host.run("files", "speak", {})["result"] == "changed"
        host.world.restore()


# inputs


@pytest.fixture
def given(host):
    """A directory of the user's, with links out of it."""
    place = host.world.directory("work/given")
    host.world.write("work/given/inside.txt", "given", 0o600)
    host.world.write("work/beside.txt", "kept-secret-beside", 0o600)
    os.symlink(host.home + "/.ssh/id_ed25519", f"{place}/key")
    os.symlink(host.home + "/documents", f"{place}/documents")
    os.symlink("../beside.txt", f"{place}/beside")
    os.symlink("/", f"{place}/everything")
    return place


def test_links_in_a_given_directory_lead_nowhere(host, given):
    os.unlink(f"{given}/everything")
    got = host.run("files", "read_given", {"place": given})["result"]["got"]
    assert got["inside.txt"] == "given"
    stolen = [name for name, text in got.items() if "kept-secret-" in text]
    assert stolen == [] or host.tier == RLIMITS
    if host.tier == RLIMITS:
        assert {"key", "one.txt", "beside"} <= set(stolen)


@pytest.mark.slow
def test_a_link_to_everything_in_a_given_directory(host, given):
    for name in ("key", "documents", "beside"):
        os.unlink(f"{given}/{name}")
    got = host.run("files", "read_given", {"place": given})["result"]["got"]
    assert got["inside.txt"] == "given"
    assert not any("kept-secret-" in text for text in got.values())


@pytest.mark.parametrize(
    ("method", "bubblewrap", "landlock"),
    [
        ("change_given", READ_ONLY, DENIED),
        pytest.param("chmod_given", READ_ONLY, "done", marks=pytest.mark.slow),
        pytest.param("replace_given", "EBUSY EXDEV EROFS", "EACCES EXDEV", marks=pytest.mark.slow),
        pytest.param("delete_given", "EBUSY EROFS", DENIED, marks=pytest.mark.slow),
        pytest.param("neighbours_of_given", NOT_THERE, DENIED, marks=pytest.mark.slow),
    ],
)
def test_an_input_is_only_read(host, given, method, bubblewrap, landlock):
    path = f"{given}/inside.txt"
    before = os.stat(path)
    found = outcome(host.run("files", method, {"place": path}))
    if host.tier == RLIMITS:
        assert found == "done"
        return
    assert found in {BUBBLEWRAP: bubblewrap, LANDLOCK: landlock}[host.tier].split()
    with open(path) as file:
        assert file.read() == "given"
    after = os.stat(path)
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


def test_a_link_planted_in_a_writable_directory_leads_nowhere(host, given):
    host.facts["place"] = given
    found = outcome(host.run("files", "write_through_planted_link", {"place": given, "facts": host.facts}))
    if host.tier == RLIMITS:
        host.forgive()
        assert found == "done"
        return
    assert found in {BUBBLEWRAP: ("ENOENT", "EROFS"), LANDLOCK: ("EACCES",)}[host.tier]


@pytest.mark.parametrize("granted", ["read", pytest.param("write", marks=pytest.mark.slow)])
def test_a_link_planted_by_one_run_opens_nothing_to_the_next(host, given, granted):
    """Both grants look harmless: a directory to write, and one inside of it. The first run makes the second a link."""
    name, inner = host.install("files"), f"{given}/inner"
    for kind, path in (("write", given), (granted, inner)):
        assert host.invoke("grant", name, kind, path).code == 0
    try:
        planted = host.run("files", "plant_link", {"place": inner, "target": f"{host.home}/.ssh"})
        assert outcome(planted) == "done", planted
        assert os.path.islink(inner)
        envelope = host.run("files", "read_through", {"what": f"{inner}/id_ed25519"})
        assert outcome(envelope) == "PermissionDeniedError", envelope  # before anything runs, and so on every tier
    finally:
        for kind, path in (("write", given), (granted, inner)):
            host.invoke("revoke", name, kind, path)
        host.forgive()  # the grants of this agent are another file now


def test_no_program_with_rights_is_left_in_a_writable_directory(host, given):
    found = outcome(host.run("files", "plant_set_uid", {"place": given}))
    path = f"{given}/program"
    planted = os.path.exists(path) and os.stat(path).st_mode & stat.S_ISUID != 0
    assert (found, planted) == (("done", True) if host.tier == RLIMITS else ("EPERM", False))


def test_a_default_of_the_manifest_is_no_grant(host):
    """The agent's author chose it, not the user."""
    envelope = host.run("files", "use_default", {})
    text = str(envelope)
    if host.tier != RLIMITS:
        assert CANARIES[".ssh/id_ed25519"].strip() not in text


def test_a_package_cannot_name_the_users_keys_as_part_of_its_program(host):
    found = outcome(host.run("program", "read_key", {}))
    assert found == ("done" if host.tier == RLIMITS else "stopped")


# results


SLOW_RETURNS = ("return_link_above", "return_process_root", "return_pipe", "return_device")


@pytest.mark.parametrize(
    "method",
    ["return_link", "return_outside", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_RETURNS)],
)
def test_a_returned_path_is_not_followed_out_of_the_scratch_directory(host, method):
    """It is read by agenthub, with the user's rights: on every tier."""
    envelope = host.run("files", method)
    assert envelope["error_type"] == "ExecutionError"
    assert "data" not in str(envelope.get("result"))


# what is left of a run


@pytest.mark.parametrize("method", ["bury", "unreadable_remains"])
def test_remains_that_are_hard_to_remove_are_removed(host, method):
    assert outcome(host.run("files", method)) == "done"


def test_a_scratch_directory_that_leads_home(host):
    """Whoever removes the scratch directory must not follow it."""
    found = outcome(host.run("files", "replace_scratch"))
    if host.tier == RLIMITS:
        host.forgive()
        assert found == "done"
        assert not [line for line in host.damage() if line.startswith("changed")]
        return
    assert found in {BUBBLEWRAP: ("EBUSY", "EROFS"), LANDLOCK: ("EACCES", "EXDEV")}[host.tier]
