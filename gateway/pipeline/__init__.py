"""The request, stage by stage; knows no gRPC."""
