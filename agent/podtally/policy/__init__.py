# SPDX-License-Identifier: Apache-2.0
"""What the declared policies say of a connection: values in, values out."""
