"""Publishing: bundle parts, golden requests and the gateway's files become one released bundle."""
