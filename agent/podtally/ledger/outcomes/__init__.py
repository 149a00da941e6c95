# SPDX-License-Identifier: Apache-2.0
"""What became of connections, booked once; retransmits; reports for the audit."""
