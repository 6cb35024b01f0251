import time, json, uuid
from portal import detached, ssh
def test_x(three):
    host=three.host()
    for i in range(8):
        t=time.time(); a=ssh.run(host,"true"); t1=time.time()
        f=f"/shared/.runs/{uuid.uuid4()}"
        detached.start(host, f, argv=["/bin/true"], env={}); t2=time.time()
        b=float((three.shared/".runs"/f.rsplit("/",1)[1]/"begun").read_text())
        detached.OWN.call(host,"signal",f,"TERM"); t3=time.time()
        print(f"true {1000*(t1-t):.0f} start {1000*(t2-t1):.0f} begun at {1000*(b-t1):.0f} signal {1000*(t3-t2):.0f}")
        time.sleep(0.8)
