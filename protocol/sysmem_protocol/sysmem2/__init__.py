"""The `fuchsia.sysmem2` library: every enum, table and method of `docs/spec/protocol.md`, declared once.

Names are the standard's in Python's spelling. A table's field is `None` if it is un-set. Import everything from here;
the modules of this package are enums and flags, constraints, results, messages and interfaces.
"""

# ruff: noqa: E501, I001 - long names of the interface; `X as X` exports again

from __future__ import annotations

from ..images2 import (
    ColorSpace as ColorSpace,
    PixelFormat as PixelFormat,
    PixelFormatModifier as PixelFormatModifier,
)
from .constraints import (
    MAX_COLOR_SPACE_COUNT as MAX_COLOR_SPACE_COUNT,
    MAX_HEAP_TYPE_BYTES as MAX_HEAP_TYPE_BYTES,
    MAX_LIST_COUNT as MAX_LIST_COUNT,
    BufferCollectionConstraints as BufferCollectionConstraints,
    BufferMemoryConstraints as BufferMemoryConstraints,
    BufferUsage as BufferUsage,
    Heap as Heap,
    ImageFormatConstraints as ImageFormatConstraints,
    PixelFormatAndModifier as PixelFormatAndModifier,
    SizeU as SizeU,
)
from .flags import (
    CoherencyDomain as CoherencyDomain,
    CpuUsage as CpuUsage,
    DisplayUsage as DisplayUsage,
    Error as Error,
    NoneUsage as NoneUsage,
    Rights as Rights,
    VideoUsage as VideoUsage,
    VulkanUsage as VulkanUsage,
)
from .interfaces import (
    DISCOVERABLE as DISCOVERABLE,
    NODES as NODES,
    Allocator as Allocator,
    BufferCollection as BufferCollection,
    BufferCollectionToken as BufferCollectionToken,
    BufferCollectionTokenGroup as BufferCollectionTokenGroup,
    Node as Node,
)
from .messages import (
    MAX_DEBUG_NAME_BYTES as MAX_DEBUG_NAME_BYTES,
    MAX_NAME_BYTES as MAX_NAME_BYTES,
    AllocatorAllocateNonSharedCollectionRequest as AllocatorAllocateNonSharedCollectionRequest,
    AllocatorAllocateSharedCollectionRequest as AllocatorAllocateSharedCollectionRequest,
    AllocatorBindSharedCollectionRequest as AllocatorBindSharedCollectionRequest,
    AllocatorGetVmoInfoRequest as AllocatorGetVmoInfoRequest,
    AllocatorValidateBufferCollectionTokenRequest as AllocatorValidateBufferCollectionTokenRequest,
    AllocatorValidateBufferCollectionTokenResponse as AllocatorValidateBufferCollectionTokenResponse,
    BufferCollectionAttachLifetimeTrackingRequest as BufferCollectionAttachLifetimeTrackingRequest,
    BufferCollectionAttachTokenRequest as BufferCollectionAttachTokenRequest,
    BufferCollectionSetConstraintsRequest as BufferCollectionSetConstraintsRequest,
    BufferCollectionTokenCreateBufferCollectionTokenGroupRequest as BufferCollectionTokenCreateBufferCollectionTokenGroupRequest,
    BufferCollectionTokenDuplicateRequest as BufferCollectionTokenDuplicateRequest,
    BufferCollectionTokenGroupCreateChildRequest as BufferCollectionTokenGroupCreateChildRequest,
    BufferCollectionWaitForAllBuffersAllocatedResponse as BufferCollectionWaitForAllBuffersAllocatedResponse,
    CreateTokensRequest as CreateTokensRequest,
    CreateTokensResponse as CreateTokensResponse,
    NodeAttachNodeTrackingRequest as NodeAttachNodeTrackingRequest,
    NodeGetBufferCollectionIdResponse as NodeGetBufferCollectionIdResponse,
    NodeGetNodeRefResponse as NodeGetNodeRefResponse,
    NodeIsAlternateForRequest as NodeIsAlternateForRequest,
    NodeIsAlternateForResponse as NodeIsAlternateForResponse,
    NodeSetDebugTimeoutLogDeadlineRequest as NodeSetDebugTimeoutLogDeadlineRequest,
    NodeSetNameRequest as NodeSetNameRequest,
    NodeSetWeakOkRequest as NodeSetWeakOkRequest,
    SetDebugClientInfoRequest as SetDebugClientInfoRequest,
)
from .settings import (
    MAX_BUFFER_COUNT as MAX_BUFFER_COUNT,
    SYSTEM_RAM_HEAP as SYSTEM_RAM_HEAP,
    AllocatedHeap as AllocatedHeap,
    BufferCollectionInfo as BufferCollectionInfo,
    BufferMemorySettings as BufferMemorySettings,
    ImageFormatSettings as ImageFormatSettings,
    SingleBufferSettings as SingleBufferSettings,
    VmoBuffer as VmoBuffer,
    VmoInfo as VmoInfo,
)
