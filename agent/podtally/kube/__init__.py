"""Kubernetes: the API's client (list and watch), and the objects that it brings."""
