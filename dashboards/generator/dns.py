# SPDX-License-Identifier: Apache-2.0
"""The DNS dashboard: what do workloads ask, how is it answered, how soon, by which resolvers?"""

from dashboards.generator.model import Dashboard, Row
from dashboards.generator.panels import (
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    Column,
    Counted,
    Line,
    Look,
    Steps,
    growth_table,
    lines,
    number,
)
from dashboards.generator.queries import (
    CLUSTER,
    NAMESPACE,
    WORKLOAD,
    WORKLOADS,
    or_zero,
    rate,
    share,
)

_QUERIES = "podtally_dns_queries_total"
_BUCKETS = "podtally_dns_response_seconds_bucket"
_MESSAGES = "podtally_dns_messages_total"
_UNTRUSTED = "podtally_dns_untrusted_queries_total"
_LONG = "podtally_dns_long_names_total"
_NONE = "no DNS questions, or names_from is off"
_FAILED = 'rcode!~"NOERROR|NXDOMAIN"'
_ASKED_BY = (
    Column("namespace", "Namespace"),
    Column("workload", "Workload"),
    Column("resolver", "Resolver"),
    Column("type", "Type"),
    Column("rcode", "Answer"),
)
_UNTRUSTED_BY = (
    Column("namespace", "Namespace"),
    Column("workload", "Workload"),
    Column("resolver", "Resolver"),
)
_LONG_BY = (
    Column("namespace", "Namespace"),
    Column("workload", "Workload"),
    Column("domain", "Domain"),
)


def _quantile(which: float, *by: str) -> str:
    return f"histogram_quantile({which}, {rate(_BUCKETS, WORKLOADS, 'le', *by)})"


def _share_of(selector: str) -> str:
    return share(or_zero(rate(_QUERIES, f"{WORKLOADS},{selector}")), rate(_QUERIES, WORKLOADS))


_NUMBERS = Row(
    "At a glance",
    (
        number(
            "Questions",
            "DNS questions per second of the selected workloads.",
            rate(_QUERIES, WORKLOADS),
            PER_SECOND,
            to="dns.md",
            empty=_NONE,
        ),
        number(
            "Failed questions",
            "Share of questions answered with SERVFAIL, REFUSED or another error, or not at all. "
            "NXDOMAIN is not counted: search paths make many of them.",
            _share_of(_FAILED),
            SHARE,
            Steps(yellow=0.01, red=0.1),
            to="operations.md#podtallydnsservfail",
            empty=_NONE,
        ),
        number(
            "Unanswered questions",
            "Share of questions that nothing answered within 10 s.",
            _share_of('rcode="unanswered"'),
            SHARE,
            Steps(yellow=0.01, red=0.1),
            to="operations.md#podtallydnsunanswered",
            empty=_NONE,
        ),
        number(
            "NXDOMAIN",
            "Share of questions for names that do not exist. A pod with search paths makes "
            "several of them for each name outside the cluster (ndots).",
            _share_of('rcode="NXDOMAIN"'),
            SHARE,
            to="operations.md#podtallydnsnxdomainsurge",
            empty=_NONE,
        ),
        number(
            "Response time, 99 %",
            "From the question to its answer, as they pass the interface of the endpoint.",
            _quantile(0.99),
            SECONDS,
            Steps(yellow=0.25, red=1),
            to="dns.md",
            empty="no DNS question was answered",
        ),
        number(
            "To untrusted resolvers",
            "Questions per second to resolvers that are not trusted for verdicts.",
            rate(_UNTRUSTED, WORKLOADS),
            PER_SECOND,
            Steps(yellow=0.001),
            to="operations.md#podtallydnsresolverbypass",
            empty="no question to such resolvers",
        ),
    ),
)

_ANSWERS = Row(
    "How is it answered?",
    (
        lines(
            "Questions by answer",
            "unanswered: nothing came within 10 s.",
            Line(rate(_QUERIES, WORKLOADS, "rcode"), "{{rcode}}"),
            Look(PER_SECOND, 12, stacked=True, empty=_NONE),
        ),
        lines(
            "Failed questions by workload",
            "Answered with an error other than NXDOMAIN, or not at all.",
            Line(
                rate(_QUERIES, f"{WORKLOADS},{_FAILED}", "namespace", "workload"),
                "{{namespace}}/{{workload}}",
            ),
            Look(PER_SECOND, 12, empty="no question failed"),
        ),
        growth_table(
            "Questions by workload",
            "In the selected time range. `podtally dns` shows the names, live.",
            _ASKED_BY,
            Counted("Questions", _QUERIES, WORKLOADS),
            Look(COUNT, 24, 9, empty=_NONE),
        ),
    ),
)

_TIMES = Row(
    "How soon?",
    (
        lines(
            "Response time",
            "From the question to its answer, as they pass the interface of the endpoint.",
            tuple(Line(_quantile(each), f"{each:.0%}") for each in (0.5, 0.9, 0.99)),
            Look(SECONDS, 12, empty="no DNS question was answered"),
        ),
        lines(
            "Response time by workload, 99 %",
            "A single slow workload: its node, its policy, or what it asks for.",
            Line(_quantile(0.99, "namespace", "workload"), "{{namespace}}/{{workload}}"),
            Look(SECONDS, 12, empty="no DNS question was answered"),
        ),
    ),
)

_ODD = Row(
    "What is not as it should be?",
    (
        lines(
            "Messages by kind",
            "truncated: the client asks again over TCP. unsolicited: answers that nothing asked "
            "for; they name nothing. unreadable: no DNS. lost: the kernel dropped them, because "
            "the endpoint sent more than its bound: it may know names that are not seen.",
            Line(rate(_MESSAGES, WORKLOADS, "kind"), "{{kind}}"),
            Look(PER_SECOND, 8, empty="all messages are as they should be"),
        ),
        growth_table(
            "Untrusted resolvers",
            "Questions in the selected time range to resolvers that are neither the cluster's nor "
            "the host's (`resolvers` adds to them).",
            _UNTRUSTED_BY,
            Counted("Questions", _UNTRUSTED, WORKLOADS),
            Look(COUNT, 8, empty="no question to such resolvers"),
        ),
        growth_table(
            "Long names",
            "Questions in the selected time range for names of more than 52 characters, by the "
            "domain above them: many of them may be a tunnel.",
            _LONG_BY,
            Counted("Questions", _LONG, WORKLOADS),
            Look(COUNT, 8, empty="no question for a long name"),
        ),
    ),
)

DNS = Dashboard(
    "dns",
    "DNS",
    "What do workloads ask in DNS, how is it answered, how soon, and by which resolvers?",
    (CLUSTER, NAMESPACE, WORKLOAD),
    (_NUMBERS, _ANSWERS, _TIMES, _ODD),
)
