"""Services, messages and enums with the comments of their .proto files, as protoc reads them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc  # type: ignore[import-untyped]

from tables.markdown import quoted, table

ROOT = Path(__file__).resolve().parents[2]
SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}

Comments = dict[tuple[int, ...], str]


@cache
def _file(name: str) -> FileDescriptorProto:
    """`protos/recsys/v1/<name>.proto` with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "set")
        source = f"recsys/v1/{name}.proto"
        flags = [f"-I{ROOT / 'protos'}", "--include_source_info", f"--descriptor_set_out={output}", source]
        if protoc.main(["protoc", *flags]):
            raise SystemExit(f"{source}: protoc refuses it, see above")
        return FileDescriptorSet.FromString(output.read_bytes()).file[0]


def _comments(file: FileDescriptorProto) -> Comments:
    return {
        tuple(location.path): " ".join(location.leading_comments.split()) for location in file.source_code_info.location
    }


def services(name: str) -> str:
    """A table of methods per service of one file."""
    file = _file(name)
    comments, parts = _comments(file), []
    for i, service in enumerate(file.service):
        rows = [
            [quoted(method.name), _link(method.input_type), _link(method.output_type), comments[6, i, 2, j]]
            for j, method in enumerate(service.method)
        ]
        parts.append(f"### {service.name}\n\n{comments[6, i]}\n\n" + table(["rpc", "request", "response", ""], rows))
    return "\n".join(parts) + "\n"


def messages(name: str) -> str:
    """A table of fields per message and of values per enum of one file, in order of the file."""
    file = _file(name)
    comments = _comments(file)
    enums = [_enum(enum, (5, i), comments) for i, enum in enumerate(file.enum_type)]
    return "\n".join([*enums, *(_message(message, (4, i), comments) for i, message in enumerate(file.message_type))])


def _message(message: DescriptorProto, path: tuple[int, ...], comments: Comments) -> str:
    rows = [[quoted(field.name), _type(field, message), comments[*path, 2, j]] for j, field in enumerate(message.field)]
    fields = table(["field", "type", ""], rows) if rows else "No fields.\n"
    return f"#### {message.name}\n\n{comments[path]}\n\n{fields}"


def _enum(enum: EnumDescriptorProto, path: tuple[int, ...], comments: Comments) -> str:
    rows = [[quoted(value.name), str(value.number), comments[*path, 2, j]] for j, value in enumerate(enum.value)]
    return f"#### {enum.name}\n\n{comments[path]}\n\n" + table(["value", "number", ""], rows)


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    name = _link(field.type_name) if field.type_name else SCALARS[field.type]
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    return f"{name}, oneof `{message.oneof_decl[field.oneof_index].name}`" if field.HasField("oneof_index") else name


def _link(full_name: str) -> str:
    name = full_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"
