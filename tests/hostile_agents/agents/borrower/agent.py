import json
import os
import sys

project = os.path.dirname(os.path.dirname(sys.executable))
try:
    with open(os.path.join(project, ".env")) as file:
        print(json.dumps({"result": file.read()}))
except OSError as error:
    print(json.dumps({"error": str(error), "error_type": "OSError"}))
