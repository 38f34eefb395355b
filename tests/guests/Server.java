import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

/** An HTTP server that counts its answers, while other threads make garbage and check it. */
public class Server {
    static final AtomicLong rounds = new AtomicLong();

    public static void main(String[] arguments) throws Exception {
        for (int n = 0; n < 3; n++) {
            Thread thread = new Thread(Server::work);
            thread.setDaemon(true);
            thread.start();
        }
        AtomicLong answers = new AtomicLong();
        InetAddress here = InetAddress.getLoopbackAddress();
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress(here, port), 0);
        server.createContext("/", exchange -> {
            long before = rounds.get();
            while (rounds.get() == before) {
                Thread.yield();
            }
            byte[] body = (answers.incrementAndGet() + "\n").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(2));
        server.start();
        System.out.println("ready");
    }

    static void work() {
        for (long n = 0; ; n++) {
            StringBuilder text = new StringBuilder();
            for (long i = 0; i < 100; i++) {
                text.append(n + i).append(' ');
            }
            String[] words = text.toString().split(" ");
            if (words.length != 100 || Long.parseLong(words[99]) != n + 99) {
                System.out.println("BAD garbage " + n);
            }
            rounds.incrementAndGet();
            try {
                Thread.sleep(1);
            } catch (InterruptedException e) {
                System.out.println("BAD interruption");
            }
        }
    }
}
