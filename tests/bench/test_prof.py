import asyncio, json, time, pytest
from tests.bench.test_bench import launch, until, _busy
pytestmark = pytest.mark.bench
def test_prof(portal, client, small, job):
    for i in range(8):
        until(lambda: not _busy(portal, job), what="x")
        t=time.time()
        try:
            first,end=asyncio.run(launch(client, job))
        except IndexError:
            page=client.get(client.at).decode(); print(client.at, page[page.index("<main"):][:1500]); continue
        run=client.at.strip("/").split("/")[1]
        d=portal.call("prof", run=run)
        print(f"first {first*1000:.0f}", " ".join(f"{k} {1000*(v-t):.0f}" for k,v in d))
