"""Generated stubs of the proto package recsys.v1; made by `make protos`, never edited."""
