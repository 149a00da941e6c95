# SPDX-License-Identifier: Apache-2.0
"""The demo's policies.

Those of the three tiers, and two common ones: frontends that accept only users, and a
namespace that may reach one network except one address.
"""

_SHOP = """\
# Pods of the shop may ask the resolver, and only send what a policy below allows beside that.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to: [{ipBlock: {cidr: 198.18.0.53/32}}]
      ports: [{protocol: UDP, port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: users, namespace: shop}
spec:
  podSelector: {matchLabels: {role: user}}
  policyTypes: [Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: frontend}}}]
      ports: [{port: 80}]
---
# Frontends accept only pods with role=user.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: frontend-from-users, namespace: shop}
spec:
  podSelector: {matchLabels: {app: frontend}}
  ingress:
    - from: [{podSelector: {matchLabels: {role: user}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: frontend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: frontend}}
  policyTypes: [Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: backend}}}]
      ports: [{port: 3000}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: backend}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: frontend}}}]
      ports: [{port: 3000}]
  egress:
    - to: [{podSelector: {matchLabels: {app: database}}}]
      ports: [{port: 3306}]
---
# The database accepts the backend, and needs nothing but the resolver.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: database, namespace: shop}
spec:
  podSelector: {matchLabels: {app: database}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: backend}}}]
      ports: [{port: 3306}]
"""

_BILLING = """\
# Billing may only reach the resolver and the bank's network, except the bank's old address.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-the-bank, namespace: billing}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to:
        - ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.10/32]}
      ports: [{protocol: TCP, port: 3306}]
    - to: [{ipBlock: {cidr: 198.18.0.53/32}}]
      ports: [{protocol: UDP, port: 53}]
"""

POLICY_FILES = {"shop.yaml": _SHOP, "billing.yaml": _BILLING}
