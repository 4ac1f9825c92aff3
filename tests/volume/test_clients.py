"""The clients of libnbd, QEMU, nbdkit and fio against both engines, over UNIX socket, TCP and TLS."""

import json
import os
import subprocess

import pytest

from .server import LIMIT_S, Server, libnbd, run, wait_until

MIB = 1 << 20


def _pattern(path, size=24 * MIB):
    """Data, a hole, data that is zeroes, data."""
    with path.open("wb") as file:
        file.write(os.urandom(size // 4))
        file.seek(size // 2)
        file.write(bytes(size // 4))
        file.write(os.urandom(size - 3 * size // 4))
    return path


@pytest.fixture(params=["unix", "tcp", "tls"])
def over(request):
    return request.param


@pytest.fixture
def reached(folder, engine, over, tls_folder):
    with Server(folder, size=24 * MIB, engine=engine, tcp=True, tls=tls_folder if over == "tls" else None) as running:
        yield running.uri(over), running


def test_nbdinfo(reached):
    uri, server = reached
    told = json.loads(run("nbdinfo", "--json", uri))
    [export] = told["exports"]
    assert told["TLS"] == uri.startswith("nbds"), told
    assert export["export-size"] == 24 * MIB
    assert export["contexts"] == ["base:allocation"]
    for can in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"):
        assert export[can], can
    assert not export["is_read_only"]
    assert (export["block_size_minimum"], export["block_size_preferred"], export["block_size_maximum"]) == (1, 4096, 32 * MIB)
    assert run("nbdinfo", "--list", uri).count("export=") == 1
    assert server.is_well()


def test_nbdcopy_there_and_back(reached, folder):
    uri, _ = reached
    source, back = _pattern(folder / "source"), folder / "back"
    run("nbdcopy", "--connections=4", "--requests=32", source, uri)
    run("nbdcopy", "--connections=4", uri, back)
    run("cmp", source, back)


def test_qemu_img_converts_compares_and_maps(server, folder):
    source, back = _pattern(folder / "source", 64 * MIB), folder / "back"
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", source, server.uri())
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, server.uri())
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri(), back)
    run("cmp", source, back)
    mapped = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", server.uri()))
    assert sum(part["length"] for part in mapped) == 64 * MIB
    # The hole in the second quarter is seen as what it is.
    assert any(part["zero"] and part["start"] <= 16 * MIB and part["start"] + part["length"] >= 32 * MIB for part in mapped), mapped
    assert not any(part["zero"] for part in mapped if part["start"] < 16 * MIB and part["start"] + part["length"] <= 16 * MIB), mapped


@pytest.mark.parametrize("how", ["ca", "none"])
def test_qemu_over_tls(folder, tls_folder, engine, how):
    with Server(folder, engine=engine, tls=tls_folder) as server:
        creds = f"tls-creds-x509,id=t,endpoint=client,dir={tls_folder}"
        image = f"driver=nbd,host=localhost,port={server.port},tls-creds=t"
        if how == "none":
            assert "TLS" in run("qemu-img", "info", f"nbd://localhost:{server.port}", code=1)
        else:
            assert "64 MiB" in run("qemu-img", "info", "--object", creds, "--image-opts", image)


def test_qemu_io(server):
    commands = ["write -P 0xa5 0 1M", "write -f -P 0x5a 512 512", "write -z -u 64k 64k", "write -z 256k 4k", "discard 512k 64k", "flush", "read -P 0xa5 0 512", "read -P 0x5a 512 512",
                "read -P 0 64k 64k", "read -P 0 256k 4k", "read -P 0xa5 128k 128k", "write -P 1 1000001 3", "read -P 1 1000001 3", "read -P 0xa5 1000004 10",
                "aio_write -P 7 2M 1M", "aio_write -P 8 3M 1M", "aio_flush", "read -P 7 2M 1M", "read -P 8 3M 1M"]  # fmt: skip
    words = [word for command in commands for word in ("-c", command)]
    done = run("qemu-io", "-f", "raw", "-t", "none", *words, server.uri())
    assert "failed" not in done, done


def test_fio_writes_and_verifies(server):
    """Random sizes, unaligned to nothing, many at once, from several connections."""
    run("fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randwrite", "--bsrange=512-128k", "--blockalign=512", "--iodepth=32", "--size=16m",
        "--numjobs=3", "--offset_increment=16m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--fsync=64", limit_s=120)  # fmt: skip


def test_nbdkit_as_the_client(server, folder):
    """Its plugin multiplexes requests on one connection; its filters make them odd."""
    proxy = folder / "proxy.sock"
    process = subprocess.Popen(["nbdkit", "--foreground", "--unix", proxy, "--filter=blocksize", "nbd", f"uri={server.uri()}", "minblock=1", "maxdata=200000"])
    try:
        wait_until("nbdkit listens", proxy.exists)
        uri = f"nbd+unix:///?socket={proxy}"
        source, back = _pattern(folder / "source", 64 * MIB), folder / "back"
        run("nbdcopy", source, uri)
        run("nbdcopy", uri, back)
        run("cmp", source, back)
        libnbd(uri, """
            h.pwrite(b"odd" * 100, 12345, nbd.CMD_FLAG_FUA)
            assert h.pread(300, 12345) == b"odd" * 100
            h.shutdown()
        """)  # fmt: skip
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0


def test_the_export_is_described(folder, engine):
    with Server(folder, engine=engine, args=("--export", "data")) as server:
        for name in ("data", ""):
            libnbd(
                "",
                f"""
                h.set_full_info(True)
                h.set_export_name({name!r})
                h.connect_unix({str(server.socket)!r})
                assert h.get_canonical_export_name() == "data"
                assert "leasehold volume" in h.get_export_description()
                """,
            )
        assert "No such file" in run("nbdinfo", f"nbd+unix:///other?socket={server.socket}", code=1)


@pytest.mark.parametrize("structured", [True, False])
def test_libnbd_with_both_kinds_of_replies(server, structured):
    libnbd(
        server.uri(),
        f"""
        assert h.get_structured_replies_negotiated() == {structured}
        assert h.can_df() == {structured} and h.can_meta_context("base:allocation") == {structured}
        data = os.urandom(300_000)
        h.pwrite(data, 777, nbd.CMD_FLAG_FUA)
        assert h.pread(300_000, 777) == data
        assert h.pread(1, 777 + 299_999) == data[-1:]
        h.zero(100_000, 1000)
        assert h.pread(100_002, 999) == data[222:223] + bytes(100_000) + data[100_223:100_224]
        h.trim(65536, 1 << 20, nbd.CMD_FLAG_FUA)
        h.cache(65536, 0)
        h.flush()
        if {structured}:
            assert h.pread(65536, 0, nbd.CMD_FLAG_DF)[777:1000] == data[:223]
        largest = os.urandom(32 << 20)
        h.pwrite(largest, 1)
        assert h.pread(32 << 20, 1) == largest
        # Out of order, all at once.
        buffers = [nbd.Buffer(4096) for _ in range(200)]
        cookies = [h.aio_pread(buffer, 4096 * place) for place, buffer in enumerate(buffers)]
        while not all(h.aio_command_completed(cookie) for cookie in cookies[:1]):
            h.poll(-1)
        cookies = cookies[1:]
        while cookies:
            h.poll(-1)
            cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
        assert all(buffer.to_bytearray() == (bytes(1) + largest)[4096 * place:][:4096] or place == 0 for place, buffer in enumerate(buffers))
        h.shutdown()
        """,
        structured=structured,
    )
