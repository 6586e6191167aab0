"""Forges results by the script contract."""

import json
import os
import sys
import time

request = json.loads(sys.argv[1])
facts = request["parameters"]["facts"]


def say():
    data = b"".join(text.encode("latin-1") * times for text, times in facts["parts"])
    while data:
        data = data[os.write(1, data) :]


def child_answers_later():
    print('{"result": "honest"}', flush=True)
    if os.fork() == 0:
        print('{"result": "of the child"}', flush=True)
        os._exit(0)
    os.wait()


def daemon_answers_later():
    print('{"result": "honest"}', flush=True)
    if os.fork() == 0:
        os.setsid()
        time.sleep(5)
        print('{"result": "of the daemon"}', flush=True)


globals()[request["method"]]()
