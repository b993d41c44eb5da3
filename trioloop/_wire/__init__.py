"""The formats: values to bytes and bytes to values.

The law of this layer:

* It knows bytes, text and plain values. It has never heard of Trio: no ``await``, no clock, no I/O.
* It imports nothing but the standard library, and nothing of trioloop outside this package.
* The same input gives the same output, so everything here is tested without mocks and without time.
"""

# One block for each module, in alphabetical order.
from ._close import MAX_CONTROL as MAX_CONTROL
from ._close import CloseCode as CloseCode
from ._close import check_close_code as check_close_code
from ._close import check_close_reason as check_close_reason
from ._close import utf8_size_exceeds as utf8_size_exceeds
from ._event_stream import EventStreamDecoder as EventStreamDecoder
from ._event_stream import EventTooLarge as EventTooLarge
from ._event_stream import ServerSentEvent as ServerSentEvent
from ._event_stream import encode_event as encode_event
from ._rate import Rate as Rate
from ._rate import TokenBucket as TokenBucket
from ._response import LIFE as LIFE
from ._response import ResponseState as ResponseState
from ._response import ResponseStep as ResponseStep
