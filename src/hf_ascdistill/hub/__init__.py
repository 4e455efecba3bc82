"""What a trained model needs on the Hub and behind it: the request handler, windows, streams and a local server."""
