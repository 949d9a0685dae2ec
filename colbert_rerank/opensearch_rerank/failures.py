"""What ml-commons and the re-rank processor say when they fail, in plain words, with what to do."""

from __future__ import annotations

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch_rerank.requests import reason_of, status_of

PRIVATE_ADDRESS = "has private ip address"

# What is found in the message, first to last -> what it means and what to do.
MEANINGS = (
    (
        PRIVATE_ADDRESS,
        "OpenSearch refuses to call private addresses: run `colbert-rerank opensearch setup` again, which allows it "
        "(plugins.ml_commons.connector.private_ip_enabled) and deploys the model anew",
    ),
    (
        "not matching the trusted connector endpoint",
        "OpenSearch does not trust this address: run `colbert-rerank opensearch setup` again, which adds it to "
        "plugins.ml_commons.trusted_connector_endpoints_regex",
    ),
    (
        "Connection refused",
        "nothing listens there, seen from OpenSearch: is the service running, and bound to an address that OpenSearch "
        "reaches (`serve --host`)?",
    ),
    ("UnknownHostException", "OpenSearch does not know this host name; write it as its own machine resolves it"),
    ("Name or service not known", "OpenSearch does not know this host name; write it as its own machine resolves it"),
    ("connection timed out", "OpenSearch gets no connection: is there a firewall in between?"),
    (
        "Read timed out",
        "the service did not answer within read_timeout, which is in whole seconds: it is busy, or k is too large. A "
        "deadline below a second is the service's to keep (setup --deadline-ms); its queue and times are in /metrics",
    ),
    ("token is needed", "the service wants a token; the connector has none or a wrong one: setup --token-file FILE"),
    ("no store is called", "the service has no store of this name: setup --store NAME, as in `serve --store NAME=DIR`"),
    ("too many requests", "as many requests wait at the service as may (429): `serve --waiting N`, or more services"),
    ("all that a query may have", "the query is longer than the service takes; it goes unranked"),
    ("Invalid payload", "the query is a JSON object or array, which OpenSearch does not quote; it goes unranked"),
    ("getTotalHits", "the search says track_total_hits: false, which the re-rank processor cannot do without"),
    ("No text documents", "the search found nothing to re-rank, or has size 0"),
    ("query_text", "the search does not say for what to re-rank: ext.rerank.query_context.query_text"),
    ("Model not ready", "the model is not deployed: run `colbert-rerank opensearch setup` again"),
    ("Fail to find model", "the model is gone: run `colbert-rerank opensearch setup` again"),
    ("same length", "the service answered fewer documents than it was asked for: is it ours, and of this version?"),
    ("Fail to execute PREDICT", "OpenSearch cannot read the service's answer: is it ours, and of this version?"),
)


def meaning(message: str) -> str:
    """What a message of OpenSearch's means, and the message itself; only this where it is not known."""
    said = message.strip().removeprefix("Error from remote service: ")
    for found, words in MEANINGS:
        if found.lower() in message.lower():
            return f"{words} (OpenSearch says: {said:.300})"
    return f"OpenSearch says: {said:.500}"


def explained(error: OpenSearchError) -> str:
    """An error of ours about a request of ml-commons, in plain words."""
    return meaning(reason_of(error)) if status_of(error) else str(error)
