"""A gRPC client that knows nothing but an address: every type comes from server reflection."""
import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)


class Reflected:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def services(self):
        return list(self.database.get_services())

    def call(self, service, method, timeout=30, **fields):
        """The response, or an iterator of them where the method streams."""
        descriptor = self.pool.FindServiceByName(f"mindforge.v1.{service}").methods_by_name[method]
        request = message_factory.GetMessageClass(descriptor.input_type)(**fields)
        response = message_factory.GetMessageClass(descriptor.output_type)
        make = (self.channel.unary_stream if descriptor.server_streaming
                else self.channel.unary_unary)
        return make(f"/mindforge.v1.{service}/{method}",
                    request_serializer=lambda m: m.SerializeToString(),
                    response_deserializer=response.FromString)(request, timeout=timeout)

    def enum_name(self, enum, number):
        return self.pool.FindEnumTypeByName(f"mindforge.v1.{enum}").values_by_number[number].name
