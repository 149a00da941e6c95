# SPDX-License-Identifier: Apache-2.0
"""Programs on interfaces: which interfaces, by TCX or clsact, as links come and go."""
