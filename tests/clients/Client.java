import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.regex.Pattern;

/** `java Client.java URL EXPERIMENT`: the JDK's own client as it comes, so with `Upgrade: h2c`. */
public class Client {
    static final Pattern DECISION = Pattern.compile("\"decision_id\":\"([^\"]+)\"");
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        String root = arguments[0] + "/v1/", experiment = root + arguments[1];
        post(root + "create", 201, "{\"experiment_id\":\"" + arguments[1] + "\",\"arms\":[\"a\",\"b\"]}");
        for (int i = 0; i < 20; i++) {
            var decision = DECISION.matcher(send(200, HttpRequest.newBuilder(URI.create(experiment + "/draw")).build()));
            if (!decision.find()) throw new IllegalStateException("a draw without a decision");
            post(experiment + "/update", 200, "{\"decision_id\":\"" + decision.group(1) + "\",\"reward\":1}");
        }
        post(experiment + "/update_batch", 200, "{\"updates\":[{\"arm_id\":\"a\",\"reward\":1},{\"arm_id\":\"b\",\"reward\":1}]}");
    }

    static void post(String url, int status, String body) throws Exception {
        send(status, HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body)).build());
    }

    static String send(int status, HttpRequest request) throws Exception {
        var answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != status) throw new IllegalStateException(answer.statusCode() + answer.body());
        return answer.body();
    }
}
