"""`SearchService` on the wire."""

from scristill.indexer.v1 import search_service_pb2 as pb
from scristill.indexer.v1 import search_service_pb2_grpc as pb_grpc

from services.indexer.application.search_facts import SearchFacts
from services.indexer.entrypoints import mapping
from services.shared.grpc.interceptors.base import Context
from services.shared.paging import decode_token, encode_token


class SearchServicer(pb_grpc.SearchServiceServicer):
    def __init__(self, search: SearchFacts) -> None:
        self._search = search

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        arguments = mapping.search_arguments(request)
        position = decode_token(request.page_token, arguments=arguments)
        query = mapping.query_from(request, offset=position["offset"] if position else 0)
        page = await self._search(query)
        token = "" if page.next_offset is None else encode_token({"offset": page.next_offset}, arguments=arguments)
        return pb.SearchResponse(hits=mapping.hits_to(page.hits), next_page_token=token, epoch=page.epoch)
