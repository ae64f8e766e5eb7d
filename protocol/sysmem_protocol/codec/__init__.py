"""Conversion between tables and strict CBOR, derived from the declarations (`docs/spec/protocol.md`, "Message").

Each table's encoder and decoder is built once from its members and then reused. Errors contain the place of the value:
`$.image_format_constraints[1].min_size.width: 4294967296 doesn't fit 32 bits (0 to 4294967295)`.
"""

from .common import ERROR, SUCCESS, DecodeError, EncodeTypeError, EncodeValueError
from .decoding import Decoder
from .encoding import encode, encode_response

__all__ = [
    "ERROR",
    "SUCCESS",
    "DecodeError",
    "Decoder",
    "EncodeTypeError",
    "EncodeValueError",
    "encode",
    "encode_response",
]
