# SPDX-License-Identifier: Apache-2.0
"""The books themselves: values in, values out; of files, the checkpoint only."""
