"""khabar over HTTP: one model, many clients. Needs the extra `serve`; importing this package alone loads none of it."""
