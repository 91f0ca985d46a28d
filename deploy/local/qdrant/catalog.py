"""The names: collections with their configuration, and aliases.

A catalog is an immutable value; every change makes a new one, which is written to disk before it takes effect. So a
request that changes several aliases changes all of them or none, and a reader never sees half of a change.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from google.protobuf import json_format
from qdrant_client import grpc as qdrant

from deploy.local.qdrant.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, StandInError
from deploy.local.qdrant.storage import replace_file

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    directory: str
    """Name of the shard's folder; never reused, so that a folder without an entry is rubbish."""
    config: qdrant.CreateCollection


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    collections: Mapping[str, Collection] = field(default_factory=dict[str, Collection])
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])

    def resolve(self, name: str) -> str:
        """The collection behind a name or an alias. Raises NotFoundError."""
        target = self.aliases.get(name, name)
        if target not in self.collections:
            raise NotFoundError(f"Collection `{name}` doesn't exist!")
        return target

    def with_collection(self, name: str, collection: Collection) -> Self:
        if name in self.aliases:
            raise AlreadyExistsError(f"Can't create collection with name {name}. Alias with the same name exists")
        return replace(self, collections={**self.collections, name: collection})

    def without_collection(self, name: str) -> Self:
        return replace(
            self,
            collections={other: entry for other, entry in self.collections.items() if other != name},
            aliases={alias: target for alias, target in self.aliases.items() if target != name},
        )

    def with_alias_actions(self, actions: list[qdrant.AliasOperations]) -> Self:
        catalog = self
        for action in actions:
            catalog = catalog._with_alias_action(action)
        return catalog

    def _with_alias_action(self, action: qdrant.AliasOperations) -> Self:
        aliases = dict(self.aliases)
        match action.WhichOneof("action"):
            case "create_alias":
                create = action.create_alias
                if create.collection_name not in self.collections:
                    raise NotFoundError(f"Collection `{create.collection_name}` doesn't exist!")
                if create.alias_name in self.collections:
                    raise AlreadyExistsError(f"Collection `{create.alias_name}` already exists!")
                aliases[create.alias_name] = create.collection_name
            case "delete_alias":
                aliases.pop(action.delete_alias.alias_name, None)
            case "rename_alias":
                rename = action.rename_alias
                if rename.old_alias_name not in aliases:
                    raise NotFoundError(f"Alias {rename.old_alias_name} does not exists!")
                if rename.new_alias_name in self.collections:
                    raise AlreadyExistsError(f"Collection `{rename.new_alias_name}` already exists!")
                aliases[rename.new_alias_name] = aliases.pop(rename.old_alias_name)
            case _:
                raise InvalidArgumentError("Malformed AliasOperation type")
        return replace(self, aliases=aliases)


def load_catalog(path: Path) -> Catalog:
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != _FORMAT:
            raise StandInError(f"{path} has format {document['format']}, this version reads {_FORMAT}")
        return Catalog(
            collections={name: _read_collection(entry) for name, entry in document["collections"].items()},
            aliases=document["aliases"],
        )
    except FileNotFoundError:
        return Catalog()
    except (OSError, ValueError, KeyError, json_format.ParseError) as error:
        raise StandInError(f"cannot read the catalog {path}: {error}") from error


def save_catalog(path: Path, catalog: Catalog) -> None:
    document = {
        "format": _FORMAT,
        "collections": {name: _write_collection(entry) for name, entry in catalog.collections.items()},
        "aliases": dict(catalog.aliases),
    }
    replace_file(path, json.dumps(document, indent=1).encode())


def _read_collection(entry: dict[str, Any]) -> Collection:
    config = json_format.ParseDict(entry["config"], qdrant.CreateCollection())
    return Collection(directory=entry["directory"], config=config)


def _write_collection(collection: Collection) -> dict[str, Any]:
    return {"directory": collection.directory, "config": json_format.MessageToDict(collection.config)}
