"""validate.py SCHEMA: takes a list of texts of TOML as JSON, and says of each what is wrong: null, nothing."""

import json
import sys
import tomllib

from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
Draft7Validator.check_schema(schema)
validator = Draft7Validator(schema)


def fault(text):
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return f"no TOML: {error}"
    found = best_match(validator.iter_errors(document))
    return found and f"{found.json_path}: {found.message[:200]}"


json.dump([fault(text) for text in json.load(sys.stdin)], sys.stdout)
